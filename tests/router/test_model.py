"""The meta-router alone: shapes, padding, who sees whom, noise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from allrounder.errors import InputInvalid
from allrounder.layout import sequential_layout
from allrounder.router.model import MetaRouter, copy_model_layers
from allrounder.vlm.config import read_spec
from allrounder.vlm.prompt import PromptBatch, prompt_batch
from allrounder.vlm.random.model import SHAPES, TINY, TINY_TILES, random_config
from allrounder.vlm.spec import ModelSpec

PREFIX, SUFFIX, IMAGE = 3, 6, 9


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny matrices: a second thread only waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(shape: str, attention: str = "causal", layers: int = 1, scope: str = "prompt") -> tuple[MetaRouter, ModelSpec]:
    torch.manual_seed(0)
    config = random_config(shape)
    spec = read_spec(config)
    router = MetaRouter(spec, config.text_config, attention, layers, scope)
    with torch.no_grad():  # a fresh router's scores differ in the fifth digit only; give it a voice
        for parameter in router.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return router.eval(), spec


def prompt_of(cases) -> PromptBatch:
    """Each case: text rows as numbers of rows, images as ("image", its tokens)."""
    layouts = []
    for case in cases:
        ids = [each for part in case for each in ([IMAGE] if isinstance(part, tuple) else [1] * part)]
        layouts.append(sequential_layout(ids, IMAGE, [part[1] for part in case if isinstance(part, tuple)]))
    return prompt_batch(layouts)


def rows_of(spec: ModelSpec, prompt: PromptBatch, seed: int = 1) -> Tensor:
    shape = (*prompt.input_ids.shape, spec.decoder.hidden)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(spec: ModelSpec, lengths: list[int], seed: int = 1) -> tuple[Tensor, PromptBatch]:
    prompt = prompt_of([(PREFIX, ("image", spec.image_tokens), length) for length in lengths])
    return rows_of(spec, prompt, seed), prompt


RAGGED = [
    (3, ("image", 4), 2),
    (("image", 2), ("image", 5), 3),
    (7,),
    (1, ("image", 3), 4, ("image", 3), 1, ("image", 3), 5),
]


@pytest.mark.parametrize("shape", [*TINY, *TINY_TILES])
@pytest.mark.parametrize(
    ("attention", "scope"), [("causal", "image"), ("bidirectional", "prompt"), ("bidirectional", "image")]
)
@torch.no_grad()
def test_every_family_scores_and_a_padded_row_gives_what_it_gives_alone(shape, attention, scope):
    router, spec = make(shape, attention, 2, scope)
    prompt = prompt_of(RAGGED)
    embeddings = rows_of(spec, prompt)
    scores = router(embeddings, prompt)
    assert scores.token_scores.shape == prompt.image_of.shape
    assert scores.layer_scores.shape == (len(RAGGED), spec.decoder.layers)
    assert scores.token_scores.dtype == scores.layer_scores.dtype == torch.float32
    assert torch.equal(scores.token_scores == -torch.inf, prompt.image_of < 0)
    for row in range(len(RAGGED)):
        single = prompt.row(row)
        alone = router(embeddings[row : row + 1, : int(single.lengths)], single)
        tokens = single.image_of.shape[1]
        torch.testing.assert_close(alone.token_scores[0], scores.token_scores[row, :tokens], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(alone.layer_scores[0], scores.layer_scores[row], rtol=1e-5, atol=1e-5)
        assert alone.token_scores.unique().numel() == tokens, "scores tie"
        assert alone.layer_scores.unique().numel() == spec.decoder.layers, "scores tie"


@torch.no_grad()
def test_what_stands_in_the_padding_does_not_matter():
    router, spec = make("llama-mha", "bidirectional")
    embeddings, prompt = inputs(spec, [2, SUFFIX])
    changed = embeddings.clone()
    changed[0, PREFIX + spec.image_tokens + 2 :] = 100.0
    for before, after in zip(router(embeddings, prompt), router(changed, prompt), strict=True):
        assert torch.equal(before, after)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
@torch.no_grad()
def test_the_scope_of_token_scores(data):
    """Under "image", bit for bit the same whatever the other rows hold; under "prompt" (bidirectional) not."""
    case = data.draw(
        st.lists(st.integers(1, 5) | st.integers(1, 6).map(lambda n: ("image", n)), min_size=1, max_size=5)
    )
    case = [*case, ("image", data.draw(st.integers(2, 6))), 2]
    attention, layers = data.draw(st.sampled_from(["causal", "bidirectional"])), data.draw(st.integers(1, 2))
    prompt = prompt_of([case])
    image = data.draw(st.integers(0, int(prompt.image_of.max())))
    own = prompt.image_index[0][prompt.image_of[0] == image]
    for scope in ("image", "prompt"):
        router, spec = make("llama-gqa-tied", attention, layers, scope)
        embeddings = rows_of(spec, prompt)
        changed = rows_of(spec, prompt, seed=2)
        changed[:, own] = embeddings[:, own]
        before, after = (router(each, prompt) for each in (embeddings, changed))
        mine = prompt.image_of == image
        same = torch.equal(before.token_scores[mine], after.token_scores[mine])
        assert same or scope == "prompt"
        assert not same or scope == "image" or attention == "causal"
        assert not torch.allclose(before.layer_scores, after.layer_scores), "layer scores always see the prompt"


@torch.no_grad()
def test_an_image_scores_alike_in_every_prompt_under_the_scope_image():
    """Alone, behind text, between other images: its place in the prompt does not count."""
    router, spec = make("llama-mha", "bidirectional", 2, "image")
    prompt = prompt_of(
        [(("image", 5), 1), (4, ("image", 5), 3), (1, ("image", 2), ("image", 5), 2), (("image", 5), ("image", 3), 6)]
    )
    embeddings, which = rows_of(spec, prompt), [0, 0, 1, 0]
    for row, image in enumerate(which):
        own = prompt.image_of[row] == image
        embeddings[row, prompt.image_index[row][own]] = embeddings[0, :5].clone()
    scores = router(embeddings, prompt).token_scores
    found = [scores[row][prompt.image_of[row] == image] for row, image in enumerate(which)]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-5)


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
    with pytest.raises(InputInvalid, match="prompt or image"):
        MetaRouter(spec, config.text_config, scope="sideways")
    with pytest.raises(InputInvalid, match="at least one layer"):
        MetaRouter(spec, config.text_config, layers=0)
    router, _ = make("llama-mha")
    embeddings, prompt = inputs(spec, [SUFFIX])
    with pytest.raises(InputInvalid, match="rows"):
        router(embeddings[:, 1:], prompt)
