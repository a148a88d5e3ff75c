"""The meta-router alone: shapes, padding, who sees whom, noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allrounder.errors import InputInvalid
from allrounder.router.model import MetaRouter, copy_model_layers
from allrounder.vlm.llava.config import read_spec
from allrounder.vlm.llava.random_model import SHAPES, random_config
from allrounder.vlm.prompt import PromptBatch
from allrounder.vlm.spec import ModelSpec

PREFIX, SUFFIX = 3, 6


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny matrices: a second thread only waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(shape: str, attention: str = "causal", layers: int = 1) -> tuple[MetaRouter, ModelSpec]:
    torch.manual_seed(0)
    config = random_config(shape)
    spec = read_spec(config)
    router = MetaRouter(spec, config.text_config, attention, layers)
    with torch.no_grad():  # a fresh router's scores differ in the fifth digit only; give it a voice
        for parameter in router.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return router.eval(), spec


def inputs(spec: ModelSpec, lengths: list[int], seed: int = 1) -> tuple[Tensor, PromptBatch]:
    generator = torch.Generator().manual_seed(seed)
    batch, longest = len(lengths), max(lengths)
    prompt = PromptBatch(
        torch.zeros(batch, PREFIX, dtype=torch.int64),
        torch.zeros(batch, longest, dtype=torch.int64),
        torch.tensor(lengths),
    )
    rows = PREFIX + spec.image_tokens + longest
    return torch.randn(batch, rows, spec.decoder.hidden, generator=generator), prompt


@pytest.mark.parametrize("shape", sorted(set(SHAPES) - {"0.5b"}))
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@torch.no_grad()
def test_every_family_scores_and_a_padded_row_gives_what_it_gives_alone(shape, attention):
    router, spec = make(shape, attention, layers=2)
    embeddings, prompt = inputs(spec, [2, SUFFIX, 4])
    scores = router(embeddings, prompt)
    assert scores.token_scores.shape == (3, spec.image_tokens)
    assert scores.layer_scores.shape == (3, spec.decoder.layers)
    assert scores.token_scores.dtype == scores.layer_scores.dtype == torch.float32
    for row in range(3):
        real = PREFIX + spec.image_tokens + int(prompt.suffix_lengths[row])
        alone = router(embeddings[row : row + 1, :real], prompt.row(row))
        torch.testing.assert_close(alone.token_scores[0], scores.token_scores[row], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(alone.layer_scores[0], scores.layer_scores[row], rtol=1e-5, atol=1e-5)
        assert scores.token_scores[row].unique().numel() == spec.image_tokens, "scores tie"
        assert scores.layer_scores[row].unique().numel() == spec.decoder.layers, "scores tie"


@torch.no_grad()
def test_what_stands_in_the_padding_does_not_matter():
    router, spec = make("llama-mha", "bidirectional")
    embeddings, prompt = inputs(spec, [2, SUFFIX])
    changed = embeddings.clone()
    changed[0, PREFIX + spec.image_tokens + 2 :] = 100.0
    for before, after in zip(router(embeddings, prompt), router(changed, prompt), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_causal_token_scores_do_not_see_the_question_and_bidirectional_ones_do(layers):
    for attention in ("causal", "bidirectional"):
        router, spec = make("llama-mha", attention, layers)
        embeddings, prompt = inputs(spec, [SUFFIX])
        other = embeddings.clone()
        other[:, PREFIX + spec.image_tokens :] += 1.0
        before, after = router(embeddings, prompt), router(other, prompt)
        assert torch.equal(before.token_scores, after.token_scores) == (attention == "causal")
        assert not torch.allclose(before.layer_scores, after.layer_scores), "layer scores always see the question"


@torch.no_grad()
def test_half_precision_rows_still_give_float32_scores_that_rank():
    router, spec = make("llama-mha")
    embeddings, prompt = inputs(spec, [SUFFIX])
    scores = router.to(torch.bfloat16)(embeddings.bfloat16(), prompt)
    assert scores.token_scores.dtype == torch.float32
    assert scores.token_scores.isfinite().all()


def test_every_parameter_learns():
    router, spec = make("qwen3" if "qwen3" in SHAPES else "llama-mha")
    embeddings, prompt = inputs(spec, [SUFFIX, 2])
    scores = router(embeddings, prompt)
    (scores.token_scores.square().sum() + scores.layer_scores.square().sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in router.parameters())


@torch.no_grad()
def test_layers_can_start_as_the_models_own():
    router, _ = make("llama-mha", layers=2)
    other, _ = make("llama-mha", layers=3)
    other.layers[0].mlp.up_proj.weight.add_(1)
    copy_model_layers(router, other.layers)
    assert torch.equal(router.layers[0].mlp.up_proj.weight, other.layers[0].mlp.up_proj.weight)
    assert torch.equal(router.layers[1].mlp.up_proj.weight, other.layers[1].mlp.up_proj.weight)
    router.layers[0].mlp.up_proj.weight.zero_()
    assert other.layers[0].mlp.up_proj.weight.any(), "a copy, not a share"


def test_wrong_calls_are_refused():
    config = random_config("llama-mha")
    spec = read_spec(config)
    with pytest.raises(InputInvalid, match="causal or bidirectional"):
        MetaRouter(spec, config.text_config, "sideways")
    with pytest.raises(InputInvalid, match="at least one layer"):
        MetaRouter(spec, config.text_config, layers=0)
    router, _ = make("llama-mha")
    embeddings, prompt = inputs(spec, [SUFFIX])
    with pytest.raises(InputInvalid, match="rows"):
        router(embeddings[:, 1:], prompt)
