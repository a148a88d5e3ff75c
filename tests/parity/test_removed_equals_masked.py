"""Removed equals masked: the eager removing model against the stock model, masked (see vlm/masked.py).

The spine of the suite: every tiny shape, K = 0 and 2, static and dynamic layers, one row and three of unequal length,
prompt and decoded tokens.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allrounder.versions import VERSIONS, Budget, resolve
from allrounder.vlm.llava.random_model import TINY, write_random_checkpoint
from allrounder.vlm.masked import masked_logits
from allrounder.vlm.model import LoadedModel, load_model
from allrounder.vlm.prompt import model_prompt
from allrounder.vlm.pruned import PrunedModel, PruningDecision, full_decision

TOLERANCE = 1e-4  # of the reference's standard deviation
STEPS = 4
QUESTIONS = ("what is the red object?", "where?", "how many <image> are there in the image\n\nand why")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Matrices this small take 30 times longer when threads wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def vlms(tmp_path_factory) -> dict[str, LoadedModel]:
    root = tmp_path_factory.mktemp("models")
    return {shape: load_model(write_random_checkpoint(root / shape, shape)) for shape in TINY}


def images(vlm: LoadedModel, batch: int, seed: int = 0) -> torch.Tensor:
    size = vlm.spec.vision.image_size
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def random_decision(vlm: LoadedModel, batch: int, prune_layer: int, *, per_row: bool, seed: int = 0) -> PruningDecision:
    """Half of the tokens, and about two thirds of the layers."""
    decoder, tokens = vlm.spec.decoder, vlm.spec.image_tokens
    budget = Budget(tokens // 2, max(prune_layer, decoder.layers - 2))
    return budget_decision(vlm, batch, prune_layer, budget, per_row=per_row, seed=seed)


def budget_decision(
    vlm: LoadedModel, batch: int, prune_layer: int, budget: Budget, *, per_row: bool, seed: int = 0
) -> PruningDecision:
    tokens, layers = budget
    generator = torch.Generator().manual_seed(seed)
    total, depth = vlm.spec.image_tokens, vlm.spec.decoder.layers
    keep = torch.stack([torch.randperm(total, generator=generator)[:tokens].sort().values for _ in range(batch)])
    rows = []
    for _ in range(batch):
        free = torch.randperm(depth - prune_layer, generator=generator)[: layers - prune_layer] + prune_layer
        rows.append(sorted([*range(prune_layer), *free.tolist()]))
    if not per_row:
        return PruningDecision(keep, tuple(rows[0]), prune_layer)
    mask = torch.zeros(batch, depth, dtype=torch.bool)
    for row, kept in enumerate(rows):
        mask[row, kept] = True
    return PruningDecision(keep, mask, prune_layer)


def assert_removed_equals_masked(vlm: LoadedModel, batch: int, decision: PruningDecision) -> None:
    pruned, prompt = PrunedModel(vlm), model_prompt(vlm, QUESTIONS[:batch])
    image_embeds = pruned.image_embeds(images(vlm, batch))
    state = pruned.prefill(image_embeds, prompt, decision)
    found, answer = [state.logits[:, None]], []
    for _ in range(STEPS):
        answer.append(found[-1][:, -1].argmax(dim=-1, keepdim=True))
        found.append(pruned.decode(state, answer[-1]))
    answer_ids, logits = torch.cat(answer, dim=1), torch.cat(found, dim=1)
    wanted = masked_logits(vlm, image_embeds, prompt, decision, answer_ids)
    assert wanted.std() > 0.5  # logits that differ, or else greedy tokens would mean nothing
    assert (logits - wanted).abs().max() <= TOLERANCE * wanted.std()
    assert torch.equal(logits.argmax(dim=-1), wanted.argmax(dim=-1))
    scored = pruned.score(image_embeds, prompt, decision, answer_ids)
    assert (scored - wanted[:, :-1]).abs().max() <= TOLERANCE * wanted.std()


@pytest.mark.parametrize("shape", TINY)
@pytest.mark.parametrize("prune_layer", [0, 2])
@pytest.mark.parametrize(("batch", "per_row"), [(1, False), (1, True), (3, False), (3, True)])
def test_removed_equals_masked(vlms, shape, prune_layer, batch, per_row):
    decision = random_decision(vlms[shape], batch, prune_layer, per_row=per_row)
    assert_removed_equals_masked(vlms[shape], batch, decision)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_budget(vlms, data):
    vlm = vlms[data.draw(st.sampled_from(TINY))]
    total, depth = vlm.spec.image_tokens, vlm.spec.decoder.layers
    prune_layer = data.draw(st.integers(0, depth - 1))
    tokens = data.draw(st.sampled_from([1, total]) | st.integers(1, total))
    lowest = max(prune_layer, 1)
    layers = data.draw(st.sampled_from([lowest, depth]) | st.integers(lowest, depth))
    batch = data.draw(st.sampled_from([1, 3]))
    per_row, seed = data.draw(st.booleans()), data.draw(st.integers(0, 1000))
    assert_removed_equals_masked(
        vlm, batch, budget_decision(vlm, batch, prune_layer, Budget(tokens, layers), per_row=per_row, seed=seed)
    )


@pytest.mark.parametrize("shape", TINY)
def test_everything_kept_is_the_stock_model(vlms, shape):
    """Nothing of ours on the other side: ids with N image tokens, pixels, `forward` and `generate`."""
    vlm = vlms[shape]
    pruned, prompt, pixels = PrunedModel(vlm), model_prompt(vlm, QUESTIONS[:1]), images(vlm, 1)
    image = torch.full((1, vlm.spec.image_tokens), vlm.spec.image_token_id)
    ids = torch.cat([prompt.prefix_ids, image, prompt.suffix_ids], dim=1)
    with torch.no_grad():
        wanted = vlm.model(input_ids=ids, pixel_values=pixels).logits
    state = pruned.prefill(pruned.image_embeds(pixels), prompt, full_decision(vlm, prune_layer=2))
    suffix = pruned.head(state.suffix_hidden)
    assert (suffix - wanted[:, -suffix.shape[1] :]).abs().max() <= TOLERANCE * wanted.std()
    stock = vlm.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixels,
        max_new_tokens=STEPS,
        do_sample=False,
        pad_token_id=0,
    )
    assert torch.equal(pruned.greedy(state, STEPS, vlm.stop_ids), stock[:, ids.shape[1] :])


@pytest.mark.parametrize("prune_layer", [0, 2])
def test_a_padded_row_gives_what_it_gives_alone(vlms, prune_layer):
    vlm = vlms["llama-gqa-tied"]
    pruned, prompt = PrunedModel(vlm), model_prompt(vlm, QUESTIONS)
    image_embeds = pruned.image_embeds(images(vlm, 3))
    decision = random_decision(vlm, 3, prune_layer, per_row=True)
    together = pruned.prefill(image_embeds, prompt, decision)
    ids = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13]])
    decoded = pruned.decode(together, ids)
    for row in range(3):
        one = slice(row, row + 1)
        alone = pruned.prefill(
            image_embeds[one],
            prompt.row(row),
            PruningDecision(decision.keep[one], decision.kept_layers[one], prune_layer),
        )
        torch.testing.assert_close(alone.logits, together.logits[one], rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(pruned.decode(alone, ids[one]), decoded[one], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("prune_layer", [0, 2])
def test_many_decisions_of_one_prompt_are_scored_at_once(vlms, prune_layer):
    vlm = vlms["qwen3-siglip-layers"]
    pruned, prompt = PrunedModel(vlm), model_prompt(vlm, QUESTIONS[:1])
    image_embeds, answer = pruned.image_embeds(images(vlm, 1)), torch.tensor([40, 41, 42, 43, 44])
    decisions = random_decision(vlm, 7, prune_layer, per_row=True)
    scored = pruned.score(image_embeds, prompt, decisions, answer)
    for row in range(7):
        one = PruningDecision(decisions.keep[row : row + 1], decisions.kept_layers[row : row + 1], prune_layer)
        wanted = masked_logits(vlm, image_embeds, prompt, one, answer[None])[:, :-1]
        assert (scored[row] - wanted[0]).abs().max() <= TOLERANCE * wanted.std()


def test_pruning_is_visible(vlms):
    """The parity above would be empty if dropping tokens and layers changed nothing."""
    for vlm in vlms.values():
        pruned, prompt = PrunedModel(vlm), model_prompt(vlm, QUESTIONS[:1])
        image_embeds = pruned.image_embeds(images(vlm, 1))
        full = pruned.prefill(image_embeds, prompt, full_decision(vlm)).logits
        everything, all_layers = full_decision(vlm).keep, full_decision(vlm).kept_layers
        fewer = pruned.prefill(image_embeds, prompt, PruningDecision(everything[:, ::2], all_layers, 2)).logits
        shallower = pruned.prefill(image_embeds, prompt, PruningDecision(everything, all_layers[:-1], 2)).logits
        assert (fewer - full).abs().max() > 100 * TOLERANCE
        assert (shallower - full).abs().max() > 0.1


def test_what_is_removed_is_gone(vlms):
    vlm = vlms["llama-gqa-tied"]
    pruned, prompt = PrunedModel(vlm), model_prompt(vlm, QUESTIONS[:1])
    decision = budget_decision(vlm, 1, 2, Budget(3, 4), per_row=False)
    state = pruned.prefill(pruned.image_embeds(images(vlm, 1)), prompt, decision)
    text = prompt.prefix_ids.shape[1] + prompt.suffix_ids.shape[1]
    assert sorted(state.cache.layers) == list(decision.kept_layers)
    for layer, (keys, _) in state.cache.layers.items():
        assert keys.shape[2] == text + (vlm.spec.image_tokens if layer < 2 else 3)


DEMO = Path(__file__).parents[2] / "models" / "demo"


@pytest.fixture(scope="session")
def demo() -> LoadedModel:
    return load_model(DEMO)


@pytest.mark.skipif(not (DEMO / "config.json").is_file(), reason="models/demo is not in this checkout")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_demo_model(demo, version):
    budget = resolve(version, tokens=demo.spec.image_tokens, layers=demo.spec.decoder.layers)
    assert_removed_equals_masked(demo, 1, budget_decision(demo, 1, 2, budget, per_row=True))
    assert_removed_equals_masked(demo, 2, budget_decision(demo, 2, 2, budget, per_row=False))
