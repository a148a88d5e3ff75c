"""Removed equals masked: the eager removing model against the stock model, masked (see vlm/masked.py).

The spine of the suite: every tiny shape, K = 0 and 2, all layers and some, four keep rules, and one ragged batch of
prompts with no image, one, two and three, text before, between and after them. Decisions of the removing side are made
by `keep_indices`, those of the reference by the rule written as plain Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allrounder.layout import PromptLayout, keep_counts, sequential_layout
from allrounder.router import selection
from allrounder.versions import EVERYTHING, VERSIONS, Keep, keep_of, resolve
from allrounder.vlm import pruned as pruned_module
from allrounder.vlm.masked import masked_logits
from allrounder.vlm.model import LoadedModel, load_model
from allrounder.vlm.prompt import PromptBatch, model_layouts, model_prompt, prompt_batch
from allrounder.vlm.pruned import PrunedModel, PruningDecision, full_decision
from allrounder.vlm.random.model import TINY, write_random_checkpoint

TOLERANCE = 1e-4  # of the reference's standard deviation
STEPS = 20  # tokens decoded
RULES: tuple[Keep, ...] = (Fraction(1, 4), Fraction(2, 5), 3, EVERYTHING)
IMAGE = -1
# Prompts as rows of text, a number of tokens each, and images.
CASES = (
    (3, IMAGE, 4),
    (IMAGE, 2),
    (2, IMAGE, IMAGE, 3),
    (1, IMAGE, 4, IMAGE, 2),
    (IMAGE, 3, IMAGE, 1, IMAGE, 6),
    (9,),
)
TURNS = [  # three turns, an image in the first and the last
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "a red ring"}]},
    {"role": "user", "content": [{"type": "text", "text": "and that?"}, {"type": "image"}]},
]


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


def layout_of(vlm: LoadedModel, case: Sequence[int], generator: torch.Generator) -> PromptLayout:
    token, ids = vlm.spec.image_token_id, list[int]()
    for part in case:
        text = torch.randint(5, vlm.spec.decoder.vocabulary, (max(part, 0),), generator=generator)
        ids += [token] if part == IMAGE else text.tolist()
    return sequential_layout(ids, token, [vlm.spec.image_tokens] * ids.count(token))


def layouts_of(vlm: LoadedModel, cases=CASES, seed: int = 0) -> list[PromptLayout]:
    generator = torch.Generator().manual_seed(seed)
    return [layout_of(vlm, case, generator) for case in cases]


def pixels(vlm: LoadedModel, images: int, seed: int = 0) -> torch.Tensor:
    size = vlm.spec.vision.image_size
    return torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(seed))


def image_tokens(vlm: LoadedModel, prompt: PromptBatch, seed: int = 0) -> torch.Tensor:
    """The tokens [B, N, H] of images that all differ; zeros behind."""
    counts = [int(row.max()) + 1 if len(row) else 0 for row in prompt.image_of]
    whole = PrunedModel(vlm).image_embeds(pixels(vlm, max(sum(counts), 1), seed))
    rows = whole[: sum(counts) * vlm.spec.image_tokens].split([count * vlm.spec.image_tokens for count in counts])
    size = prompt.image_of.shape[1]
    return torch.stack([torch.nn.functional.pad(row, (0, 0, 0, size - len(row))) for row in rows])


def plain_keep(scores: torch.Tensor, layouts: Sequence[PromptLayout], rule: Keep) -> torch.Tensor:
    """The rule of the design, image by image, in plain Python."""
    rows = []
    for row, layout in zip(scores.tolist(), layouts, strict=True):
        kept = []
        for image, count in enumerate(keep_counts(layout, rule)):
            own = [index for index, of in enumerate(layout.image_of) if of == image]
            kept += sorted(own, key=lambda index: (-row[index], index))[:count]
        rows.append(sorted(kept))
    longest = max(map(len, rows))
    return torch.tensor([row + [-1] * (longest - len(row)) for row in rows], dtype=torch.int64)


def some_layers(vlm: LoadedModel, batch: int, prune_layer: int, count: int, seed: int = 0) -> torch.Tensor:
    """Bool [B, M]: those below K, and random others; every second row keeps all."""
    generator, depth = torch.Generator().manual_seed(seed), vlm.spec.decoder.layers
    mask = torch.zeros(batch, depth, dtype=torch.bool)
    for row in range(batch):
        chosen = torch.randperm(depth - prune_layer, generator=generator)[: count - prune_layer] + prune_layer
        mask[row, chosen], mask[row, :prune_layer] = True, True
    mask[1::2] = True
    return mask


def assert_removed_equals_masked(
    vlm: LoadedModel, layouts: Sequence[PromptLayout], rule: Keep, kept_layers, prune_layer: int, seed: int = 0
) -> None:
    pruned, prompt = PrunedModel(vlm), prompt_batch(layouts)
    embeds = image_tokens(vlm, prompt, seed)
    scores = torch.randn(prompt.image_of.shape, generator=torch.Generator().manual_seed(seed))
    decision = PruningDecision(selection.keep_indices(scores, prompt.image_of, rule), kept_layers, prune_layer)
    state = pruned.prefill(embeds, prompt, decision)
    found, answer = [state.logits[:, None]], []
    for _ in range(STEPS):
        answer.append(found[-1][:, -1].argmax(dim=-1, keepdim=True))
        found.append(pruned.decode(state, answer[-1]))
    answer_ids, logits = torch.cat(answer, dim=1), torch.cat(found, dim=1)
    reference = decision._replace(keep=plain_keep(scores, layouts, rule))
    wanted = masked_logits(vlm, embeds, prompt, reference, answer_ids)
    assert wanted.std() > 0.5  # logits that differ, or else greedy tokens would mean nothing
    assert (logits - wanted).abs().max() <= TOLERANCE * wanted.std(), "removed differs from masked"
    assert torch.equal(logits.argmax(dim=-1), wanted.argmax(dim=-1))
    scored = pruned.score(embeds, prompt, decision, answer_ids)
    assert (scored - wanted[:, :-1]).abs().max() <= TOLERANCE * wanted.std()


@pytest.mark.parametrize("shape", TINY)
@pytest.mark.parametrize("prune_layer", [0, 2])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_removed_equals_masked(vlms, shape, prune_layer, rule):
    vlm = vlms[shape]
    layers = some_layers(vlm, len(CASES), prune_layer, 3)
    assert_removed_equals_masked(vlm, layouts_of(vlm), rule, layers, prune_layer)


@pytest.mark.parametrize("shape", ["llama-mha", "qwen2-siglip"])
def test_one_list_of_layers_for_all_rows(vlms, shape):
    assert_removed_equals_masked(vlms[shape], layouts_of(vlms[shape]), Fraction(1, 4), (0, 1, 4), 2)


@pytest.mark.parametrize("shape", ["llama-mha", "qwen2-siglip"])
def test_three_turns_of_a_conversation(vlms, shape):
    vlm = vlms[shape]
    (layout,) = model_layouts(vlm, [TURNS])
    assert len(layout.tokens_by_image) == 2
    assert_removed_equals_masked(vlm, [layout], Fraction(2, 5), (0, 1, 3), 2)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_budget(vlms, data):
    vlm = vlms[data.draw(st.sampled_from(TINY))]
    depth, seed = vlm.spec.decoder.layers, data.draw(st.integers(0, 1000))
    part = st.lists(st.integers(1, 5) | st.just(IMAGE), max_size=5)
    cases = data.draw(
        st.lists(st.tuples(part, st.integers(1, 4)).map(lambda both: (*both[0], both[1])), min_size=1, max_size=3)
    )
    prune_layer = data.draw(st.integers(0, depth - 1))
    layers = data.draw(st.integers(max(prune_layer, 1), depth))
    rule = data.draw(st.fractions(Fraction(1, 20), 1, max_denominator=20) | st.integers(2, vlm.spec.image_tokens + 2))
    mask = some_layers(vlm, len(cases), prune_layer, layers, seed)
    assert_removed_equals_masked(vlm, layouts_of(vlm, cases, seed), rule, mask, prune_layer, seed)


# --- planted faults: the comparison above must see them -------------------------------------------------------------


def renumbered(real):
    def fault(prompt, keep):
        order, kept = real(prompt, keep)
        return order, kept._replace(position_ids=torch.arange(order.shape[1]).expand_as(kept.position_ids))

    return fault


def counted_from_the_kept_prompt(real):
    def fault(prompt, keep):
        order, kept = real(prompt, keep)
        return order, kept._replace(next_position=kept.lengths)

    return fault


def over_all_images(real):
    return lambda scores, image_of, keep: real(scores, image_of.clamp_max(0), keep)


@pytest.mark.parametrize("prune_layer", [0, 2])
@pytest.mark.parametrize(
    ("module", "name", "plant"),
    [
        (pruned_module, "kept_rows", renumbered),
        (pruned_module, "kept_rows", counted_from_the_kept_prompt),
        (selection, "keep_indices", over_all_images),
    ],
)
def test_planted_faults_are_seen(vlms, monkeypatch, prune_layer, module, name, plant):
    vlm, rule = vlms["llama-gqa-tied"], Fraction(1, 4)
    layouts, layers = layouts_of(vlm, [(2, IMAGE, 3, IMAGE, 4)]), tuple(range(vlm.spec.decoder.layers))
    assert_removed_equals_masked(vlm, layouts, rule, layers, prune_layer)
    monkeypatch.setattr(module, name, plant(getattr(module, name)))
    with pytest.raises(AssertionError, match="removed differs from masked"):
        assert_removed_equals_masked(vlm, layouts, rule, layers, prune_layer)


# --- the stock model, and the parts of the removing one -------------------------------------------------------------


@pytest.mark.parametrize("shape", TINY)
def test_everything_kept_is_the_stock_model(vlms, shape):
    """Nothing of ours on the other side: ids with N image tokens, pixels, `forward` and `generate`."""
    vlm = vlms[shape]
    pruned, prompt = PrunedModel(vlm), prompt_batch(layouts_of(vlm, [(2, IMAGE, 3, IMAGE, 4)]))
    given, ids = pixels(vlm, 2), prompt.input_ids
    with torch.no_grad():
        wanted = vlm.model(input_ids=ids, pixel_values=given).logits
    state = pruned.prefill(image_tokens(vlm, prompt), prompt, full_decision(vlm.spec, prompt, prune_layer=2))
    assert (pruned.head(state.hidden) - wanted).abs().max() <= TOLERANCE * wanted.std()
    stock = vlm.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=given,
        max_new_tokens=4,
        do_sample=False,
        pad_token_id=0,
    )
    assert torch.equal(pruned.greedy(state, 4, vlm.stop_ids), stock[:, ids.shape[1] :])


@pytest.mark.parametrize("prune_layer", [0, 2])
def test_a_padded_row_gives_what_it_gives_alone(vlms, prune_layer):
    vlm = vlms["llama-gqa-tied"]
    pruned, prompt = PrunedModel(vlm), prompt_batch(layouts_of(vlm))
    embeds, batch = image_tokens(vlm, prompt), len(CASES)
    keep = selection.keep_indices(torch.randn(prompt.image_of.shape), prompt.image_of, Fraction(2, 5))
    layers = some_layers(vlm, batch, prune_layer, 3)
    together = pruned.prefill(embeds, prompt, PruningDecision(keep, layers, prune_layer))
    ids = torch.arange(5, 5 + 3 * batch).reshape(batch, 3)
    decoded = pruned.decode(together, ids)
    for row in range(batch):
        one, alone = slice(row, row + 1), prompt.row(row)
        own = keep[one, : int((keep[row] >= 0).sum())]
        state = pruned.prefill(
            embeds[one, : alone.image_of.shape[1]], alone, PruningDecision(own, layers[one], prune_layer)
        )
        torch.testing.assert_close(state.logits, together.logits[one], rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(pruned.decode(state, ids[one]), decoded[one], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("prune_layer", [0, 2])
def test_many_decisions_of_one_prompt_are_scored_at_once(vlms, prune_layer):
    vlm = vlms["qwen3-siglip-layers"]
    pruned, prompt = PrunedModel(vlm), prompt_batch(layouts_of(vlm, CASES[3:4]))
    embeds, answer = image_tokens(vlm, prompt), torch.tensor([40, 41, 42, 43, 44])
    rules, layers = (*RULES, 2, Fraction(1, 2), Fraction(1, 3)), some_layers(vlm, 7, prune_layer, 3)
    scores = torch.randn(prompt.image_of.shape, generator=torch.Generator().manual_seed(0))
    keeps = [selection.keep_indices(scores, prompt.image_of, rule)[0] for rule in rules]
    keep = torch.nn.utils.rnn.pad_sequence(keeps, batch_first=True, padding_value=-1)
    scored = pruned.score(embeds, prompt, PruningDecision(keep, layers, prune_layer), answer)
    for row in range(7):
        one = PruningDecision(keep[row : row + 1], layers[row : row + 1], prune_layer)
        wanted = masked_logits(vlm, embeds, prompt, one, answer[None])[:, :-1]
        assert (scored[row] - wanted[0]).abs().max() <= TOLERANCE * wanted.std()


def test_pruning_is_visible(vlms):
    """The parity above would be empty if dropping tokens and layers changed nothing."""
    for vlm in vlms.values():
        pruned, prompt = PrunedModel(vlm), model_prompt(vlm, ["what is the red object?"])
        embeds = image_tokens(vlm, prompt)
        everything, all_layers, _ = full_decision(vlm.spec, prompt)
        full = pruned.prefill(embeds, prompt, full_decision(vlm.spec, prompt)).logits
        fewer = pruned.prefill(embeds, prompt, PruningDecision(everything[:, ::2], all_layers, 2)).logits
        shallower = pruned.prefill(embeds, prompt, PruningDecision(everything, all_layers[:-1], 2)).logits
        assert (fewer - full).abs().max() > 100 * TOLERANCE
        assert (shallower - full).abs().max() > 0.1


def test_what_is_removed_is_gone(vlms):
    vlm = vlms["llama-gqa-tied"]
    pruned, (layout,) = PrunedModel(vlm), layouts_of(vlm, CASES[3:4])
    prompt = prompt_batch([layout])
    keep = selection.keep_indices(torch.randn(prompt.image_of.shape), prompt.image_of, 3)
    state = pruned.prefill(image_tokens(vlm, prompt), prompt, PruningDecision(keep, (0, 1, 3), 2))
    assert sorted(state.cache.layers) == [0, 1, 3]
    for layer, (keys, _) in state.cache.layers.items():
        assert keys.shape[2] == (layout.rows if layer < 2 else layout.text_tokens + 6)
    assert state.next_position.tolist() == [layout.rows]


DEMO = Path(__file__).parents[2] / "models" / "demo"


@pytest.fixture(scope="session")
def demo() -> LoadedModel:
    return load_model(DEMO)


@pytest.mark.skipif(not (DEMO / "config.json").is_file(), reason="models/demo is not in this checkout")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_demo_model(demo, version):
    layers = resolve(version, tokens=1, layers=demo.spec.decoder.layers).layers
    layouts = layouts_of(demo, [(3, IMAGE, 5), (2, IMAGE, 1, IMAGE, 4)])
    assert_removed_equals_masked(demo, layouts, keep_of(version), some_layers(demo, 2, 2, layers), 2)
