"""Baseline pruners: each held to a slow and plain computation of what its docstring says, and to the stock model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allrounder.errors import CalibrationError, InputInvalid, InvalidBudget
from allrounder.router.pruners import LAYER_PRUNERS, TOKEN_PRUNERS, Setting, View, combined, embed_pixels, pruner
from allrounder.router.pruners.diverse import RIDGE, greedy_determinant, greedy_max_min, relevance
from allrounder.router.pruners.inside import PIVOTS
from allrounder.router.pruners.plain import stride_order
from allrounder.router.selection import keep_indices, kept_layer_mask, ranking
from allrounder.vlm.model import LoadedModel, load_model
from allrounder.vlm.prompt import PromptBatch, model_prompt
from allrounder.vlm.random_model import Shape, write_random_checkpoint

QUESTIONS = ("what is this?", "where is the very small red thing on the left?", "how many?")
SHAPES = {
    "llama": Shape(vision={"image_size": 84}),  # 36 image tokens, more than its hidden size of 32
    "qwen3": Shape(text_type="qwen3", text={"head_dim": 12}, vision={"image_size": 70}),  # 25, norms on its keys
}
MEASURING = {"fastv", "dart", "divprune", "cdpruner"}


@pytest.fixture(scope="module", params=SHAPES)
def vlm(request, tmp_path_factory) -> LoadedModel:
    return load_model(write_random_checkpoint(tmp_path_factory.mktemp("model"), SHAPES[request.param]))


def view_of(vlm: LoadedModel, questions=QUESTIONS, seed: int = 0, width: int | None = None) -> View:
    generator = torch.Generator().manual_seed(seed)
    width = width or vlm.spec.decoder.hidden
    image_embeds = torch.randn(len(questions), vlm.spec.image_tokens, width, generator=generator)
    # a common part, as real features have one: cosines are then mostly positive
    image_embeds = image_embeds + torch.randn(1, 1, width, generator=generator)
    return embed_pixels(vlm, image_embeds, model_prompt(vlm, list(questions)), [f"{seed}/{text}" for text in questions])


def alone(vlm: LoadedModel, view: View, row: int) -> View:
    return embed_pixels(vlm, view.image_embeds[row : row + 1], view.prompt.row(row), [view.identity[row]])


def setting_of(vlm: LoadedModel, prune_layer: int = 2, seed: int = 0) -> Setting:
    return Setting(vlm, prune_layer, seed, (view_of(vlm, seed=7), view_of(vlm, QUESTIONS[1:2], seed=8)))


def order_of(scores: torch.Tensor) -> list[list[int]]:
    return ranking(scores).tolist()


def stock(vlm: LoadedModel, view: View, row: int, **more):
    """The library's own forward of one prompt."""
    return vlm.model(inputs_embeds=alone(vlm, view, row).embeddings, use_cache=False, **more)


# --- all of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prune_layer", [0, 2])
@pytest.mark.parametrize("name", TOKEN_PRUNERS)
def test_token_scores_of_a_padded_batch_are_those_of_each_row_alone(vlm, name, prune_layer):
    setting, view = setting_of(vlm, prune_layer), view_of(vlm)
    assert len(set(view.prompt.suffix_lengths.tolist())) > 1, "nothing is padded"
    prune = TOKEN_PRUNERS[name](setting)
    scores = prune(view)
    assert scores.shape == (3, vlm.spec.image_tokens)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    assert not scores.requires_grad
    assert torch.equal(scores, TOKEN_PRUNERS[name](setting)(view)), "not deterministic"
    for row in range(3):
        single = prune(alone(vlm, view, row))
        torch.testing.assert_close(single[0], scores[row], rtol=1e-4, atol=1e-7)
        assert order_of(single) == order_of(scores[row : row + 1])


@pytest.mark.parametrize("name", sorted(MEASURING | {"random"}))
def test_token_scores_do_not_tie(vlm, name):
    scores = TOKEN_PRUNERS[name](setting_of(vlm))(view_of(vlm))
    assert all(row.unique().numel() == vlm.spec.image_tokens for row in scores)


@pytest.mark.parametrize("name", TOKEN_PRUNERS)
def test_what_stands_in_the_padding_does_not_matter(vlm, name):
    prune, view = TOKEN_PRUNERS[name](setting_of(vlm)), view_of(vlm)
    changed = view.embeddings.clone()
    for row, end in enumerate(view.prompt.prefix_ids.shape[1] + vlm.spec.image_tokens + view.prompt.suffix_lengths):
        changed[row, end:] = 100.0
    assert order_of(prune(view)) == order_of(prune(view._replace(embeddings=changed)))


@pytest.mark.parametrize(("name", "sees"), [("fastv", True), ("cdpruner", True), ("divprune", False)])
def test_which_token_scores_see_the_question(vlm, name, sees):
    image_embeds = view_of(vlm).image_embeds[:1]
    views = [embed_pixels(vlm, image_embeds, model_prompt(vlm, [text]), ["x"]) for text in QUESTIONS[:2]]
    first, second = (TOKEN_PRUNERS[name](setting_of(vlm))(view) for view in views)
    assert torch.equal(first, second) != sees


@pytest.mark.parametrize("name", LAYER_PRUNERS)
def test_layer_scores_have_one_row_per_question(vlm, name):
    prune, view = LAYER_PRUNERS[name](setting_of(vlm)), view_of(vlm)
    scores = prune(view)
    assert scores.shape == (3, vlm.spec.decoder.layers)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    for row in range(3):
        assert torch.equal(prune(alone(vlm, view, row))[0], scores[row])


@pytest.mark.parametrize("name", [f"{tokens}+{layers}" for tokens in TOKEN_PRUNERS for layers in LAYER_PRUNERS])
def test_any_pair_makes_decisions_that_nest_and_keep_the_layers_below_the_gather(vlm, name):
    scores = pruner(name, setting_of(vlm))(view_of(vlm))
    small, large = keep_indices(scores.token_scores, 6), keep_indices(scores.token_scores, 14)
    for few, many in zip(small.tolist(), large.tolist(), strict=True):
        assert set(few) < set(many)
    assert kept_layer_mask(scores.layer_scores, 3, 2)[:, :2].all()


def test_nobody_scoring_keeps_the_first(vlm):
    scores = pruner("none+none", setting_of(vlm))(view_of(vlm))
    assert keep_indices(scores.token_scores, 5).tolist() == [list(range(5))] * 3
    assert kept_layer_mask(scores.layer_scores, 4, 2).tolist() == [[True] * 4 + [False]] * 3
    first = pruner("none+first", setting_of(vlm))(view_of(vlm))
    assert torch.equal(first.layer_scores, scores.layer_scores)


def test_a_pruner_of_ones_own_and_a_layer_pruner_measured_once(vlm, monkeypatch):
    monkeypatch.setitem(TOKEN_PRUNERS, "last", lambda setting: lambda view: torch.arange(9.0).repeat(3, 1))
    setting, view = setting_of(vlm), view_of(vlm)
    assert pruner("last+none", setting)(view).token_scores[0].tolist() == list(range(9))
    layers = LAYER_PRUNERS["shortgpt"](setting)
    shared = combined(setting, TOKEN_PRUNERS["stride"](setting), layers)(view)
    whole = pruner("stride+shortgpt", setting)(view)
    assert torch.equal(shared.token_scores, whole.token_scores)
    assert torch.equal(shared.layer_scores, whole.layer_scores)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fastv", "fastv\\+shortgpt"),
        ("", "fastv\\+shortgpt"),
        ("magic+random", "token.*divprune"),
        ("random+magic", "layer.*shortgpt"),
        ("random+fastv", "layer.*shortgpt"),
        ("Random+random", "token"),
        ("random+random+random", "layer"),
    ],
)
def test_unknown_names_are_told_what_there_is(vlm, name, told):
    with pytest.raises(InputInvalid, match=told):
        pruner(name, setting_of(vlm))


def test_wrong_settings_and_views_are_refused(vlm):
    setting, view = setting_of(vlm), view_of(vlm)
    for prune_layer in (-1, vlm.spec.decoder.layers):
        with pytest.raises(InvalidBudget):
            pruner("random+random", setting._replace(prune_layer=prune_layer))
    with pytest.raises(CalibrationError, match="shortgpt"):
        pruner("random+shortgpt", setting._replace(calibration=()))
    prune = pruner("random+none", setting)
    with pytest.raises(InputInvalid, match="image_embeds"):
        prune(view._replace(image_embeds=view.image_embeds[:, 1:]))
    with pytest.raises(InputInvalid, match="embeddings"):
        prune(view._replace(embeddings=view.embeddings[:, 1:]))
    with pytest.raises(InputInvalid, match="image_embeds"):
        prune(view._replace(identity=("x",)))
    with pytest.raises(InputInvalid):
        embed_pixels(vlm, view.image_embeds, view.prompt, ["x", "y"])


def test_a_model_in_half_precision_still_gives_float32_scores_that_rank(tmp_path):
    vlm = load_model(write_random_checkpoint(tmp_path, SHAPES["llama"]), dtype=torch.bfloat16)
    image_embeds = view_of(vlm).image_embeds.bfloat16()
    view = embed_pixels(vlm, image_embeds, model_prompt(vlm, list(QUESTIONS)), QUESTIONS)
    setting = Setting(vlm, 2, 0, (view,))
    for name in MEASURING:
        scores = pruner(f"{name}+shortgpt", setting)(view)
        assert scores.token_scores.dtype == scores.layer_scores.dtype == torch.float32
        assert scores.token_scores.isfinite().all()
        assert scores.layer_scores.isfinite().all()
        assert (scores.layer_scores > 0).all()


# --- random, stride -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["token_scores", "layer_scores"])
def test_random_scores_depend_on_seed_and_identity_alone(vlm, kind):
    view = view_of(vlm)
    other = view_of(vlm, QUESTIONS[::-1], seed=3)._replace(identity=view.identity[::-1])
    first = getattr(pruner("random+random", setting_of(vlm, seed=5))(view), kind)
    again = getattr(pruner("random+random", setting_of(vlm, 0, seed=5))(other), kind)
    assert torch.equal(first, again.flip(0)), "images, questions, order and K must not matter"
    seeded = getattr(pruner("random+random", setting_of(vlm, seed=6))(view), kind)
    assert not torch.equal(first, seeded)
    assert len({tuple(row) for row in first.tolist()}) == 3, "every question has its own draw"


def test_random_tokens_are_near_uniform(vlm):
    view = view_of(vlm)._replace(identity=tuple(map(str, range(600))))
    scores = TOKEN_PRUNERS["random"](setting_of(vlm))(view)
    share = torch.zeros(vlm.spec.image_tokens).index_add_(0, keep_indices(scores, 5).flatten(), torch.ones(3000)) / 600
    expected = 5 / vlm.spec.image_tokens
    assert (share - expected).abs().max() < 5 * (expected / 600) ** 0.5


def test_stride_order_by_hand():
    assert stride_order(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert stride_order(6) == [0, 4, 2, 1, 5, 3]
    assert stride_order(1) == [0]
    assert stride_order(576)[:5] == [0, 512, 256, 128, 384]


@pytest.mark.parametrize("count", [2, 5, 36, 255, 256, 257, 576, 729])
def test_every_prefix_of_the_stride_is_near_uniform(count):
    order = stride_order(count)
    assert sorted(order) == list(range(count))
    for kept in range(1, count + 1):
        gaps = np.diff([*sorted(order[:kept]), count])
        assert gaps.max() <= 4 * count / kept, f"{kept} tokens leave a gap of {gaps.max()}"
        assert gaps[:-1].min(initial=count) >= count / kept / 4, f"{kept} tokens crowd"


# --- DivPrune, CDPruner ---------------------------------------------------------------------------------------------


def brute_divprune(features: np.ndarray) -> list[int]:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    everyone = range(len(unit))
    kept: list[int] = []
    while len(kept) < len(unit):
        left = [one for one in everyone if one not in kept]
        against = {one: [other for other in (kept or everyone) if other != one] for one in left}
        kept.append(max(left, key=lambda one: round(min(distance[one, other] for other in against[one]), 12)))
    return kept


def test_divprune_equals_a_brute_force_greedy(vlm):
    view = view_of(vlm)
    order = order_of(TOKEN_PRUNERS["divprune"](setting_of(vlm))(view))
    assert order == [brute_divprune(row.double().numpy()) for row in view.image_embeds]


def test_divprune_by_hand():
    # Directions in degrees. The neighbour of 200 is 110 away, all others have one at 10: it is first. 10 is 170 from
    # it, the farthest; then 90, 80 from 10; then 0 and 80, each 10 from a kept one: the lower index first.
    angles = torch.tensor([0.0, 10.0, 80.0, 90.0, 200.0], dtype=torch.float64).deg2rad()
    distance = (1 - torch.cos(angles[:, None] - angles[None])).round(decimals=12)
    assert greedy_max_min(distance[None]).tolist() == [[4, 1, 3, 0, 2]]


def test_equal_tokens_still_give_an_order(vlm):
    view = view_of(vlm)
    same = embed_pixels(vlm, view.image_embeds[:, :1].expand_as(view.image_embeds), view.prompt, view.identity)
    empty = embed_pixels(vlm, torch.zeros_like(view.image_embeds), view.prompt, view.identity)
    for name, flat in itertools.product(sorted(MEASURING), (same, empty)):
        scores = TOKEN_PRUNERS[name](setting_of(vlm))(flat)
        assert scores.isfinite().all(), name
        assert keep_indices(scores, 4).diff(dim=1).min() > 0, name
    assert order_of(TOKEN_PRUNERS["divprune"](setting_of(vlm))(same))[0] == list(range(vlm.spec.image_tokens))


def brute_determinants(kernel: np.ndarray) -> list[int]:
    kept: list[int] = []
    while len(kept) < len(kernel):
        left = [one for one in range(len(kernel)) if one not in kept]
        kept.append(max(left, key=lambda one: np.linalg.det(kernel[np.ix_([*kept, one], [*kept, one])])))
    return kept


def test_the_greedy_order_equals_brute_force_determinants():
    generator = np.random.default_rng(0)
    kernels, weights = [], []
    for _ in range(6):
        features = generator.normal(size=(9, 12)) + 1
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        kernels.append(unit @ unit.T + 1e-3 * np.eye(9))
        weights.append(generator.uniform(0.05, 1, 9))
    order = greedy_determinant(torch.tensor(np.stack(kernels)), torch.tensor(np.stack(weights))).tolist()
    scaled = [np.sqrt(np.outer(weight, weight)) * kernel for kernel, weight in zip(kernels, weights, strict=True)]
    assert order == [brute_determinants(kernel) for kernel in scaled]
    assert len({tuple(row) for row in order}) > 1


def test_the_greedy_order_by_hand():
    # 0 is the most relevant; 1 is nearly its copy, so 2 comes before it though it weighs less; 3 weighs nothing.
    similarity = torch.tensor([[1, 0.99, 0, 0], [0.99, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)
    weight = torch.tensor([1.0, 0.9, 0.1, 0.0], dtype=torch.float64)
    assert greedy_determinant(similarity[None], weight[None]).tolist() == [[0, 2, 1, 3]]


def test_cdpruner_is_that_order_on_the_papers_kernel(vlm):
    view = view_of(vlm)
    order = order_of(TOKEN_PRUNERS["cdpruner"](setting_of(vlm))(view))
    start = view.prompt.prefix_ids.shape[1] + vlm.spec.image_tokens
    for row in range(3):
        features = view.image_embeds[row].double().numpy()
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        question = view.embeddings[row, start : start + int(view.prompt.suffix_lengths[row])].double().mean(0).numpy()
        cosine = unit @ question / np.linalg.norm(question)
        close = (cosine - cosine.min()) / (cosine.max() - cosine.min())
        np.testing.assert_allclose(relevance(view)[row].numpy(), close, atol=1e-9)
        kernel = np.outer(close, close) * (unit @ unit.T + RIDGE * np.eye(len(unit)))
        # determinants of many tokens are tiny: the first dozen by brute force, the rest by logarithms, until weight 0
        kept = order[row]
        assert kept[:12] == brute_determinants(kernel)[:12]
        for size in range(12, len(kept) - 1):
            logs = {
                one: np.linalg.slogdet(kernel[np.ix_([*kept[:size], one], [*kept[:size], one])])[1]
                for one in kept[size:-1]
            }
            assert logs[kept[size]] >= max(logs.values()) - 1e-6
        assert kept[-1] == int(close.argmin())


# --- FastV, DART ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prune_layer", [0, 1, 2, 4])
def test_fastv_is_the_attention_that_the_stock_model_tells(vlm, prune_layer):
    view = view_of(vlm)
    scores = TOKEN_PRUNERS["fastv"](setting_of(vlm, prune_layer))(view)
    start, tokens = view.prompt.prefix_ids.shape[1], vlm.spec.image_tokens
    vlm.model.set_attn_implementation("eager")
    try:
        for row in range(3):
            weights = stock(vlm, view, row, output_attentions=True).attentions[max(prune_layer, 1) - 1]
            expected = weights[0].mean(dim=0)[-1, start : start + tokens]
            torch.testing.assert_close(scores[row], expected, rtol=1e-4, atol=1e-6)
    finally:
        vlm.model.set_attn_implementation("sdpa")


@pytest.mark.parametrize("prune_layer", [0, 1, 3])
@pytest.mark.parametrize("name", ["fastv", "dart"])
def test_no_layer_runs_that_pruning_could_have_saved(vlm, name, prune_layer):
    ran: list[int] = []
    layers = vlm.model.model.language_model.layers
    hooks = [
        layer.register_forward_hook(lambda *_, index=index: ran.append(index)) for index, layer in enumerate(layers)
    ]
    before = vlm.model.model.language_model.config._attn_implementation
    TOKEN_PRUNERS[name](setting_of(vlm, prune_layer))(view_of(vlm))
    for hook in hooks:
        hook.remove()
    # FastV takes the attention of layer K-1 out of its stock module, without the layer around it
    assert ran == list(range(prune_layer - (name == "fastv" and prune_layer > 0)))
    assert vlm.model.model.language_model.config._attn_implementation == before


def loop_dart(hidden: np.ndarray, norms: np.ndarray, start: int, tokens: int) -> list[int]:
    def cosine(one: int, other: int) -> float:
        return hidden[one] @ hidden[other] / np.linalg.norm(hidden[one]) / np.linalg.norm(hidden[other])

    image_embeds = list(range(start, start + tokens))
    text = [row for row in range(len(hidden)) if row not in image_embeds]
    longest = [sorted(group, key=lambda row: (-norms[row], row))[:PIVOTS] for group in (image_embeds, text)]
    kept, turns = list(longest[0]), itertools.cycle(longest[0] + longest[1])
    while len(kept) < tokens:
        pivot = next(turns)
        kept.append(min((row for row in image_embeds if row not in kept), key=lambda row: cosine(pivot, row)))
    return [row - start for row in kept]


def short_view(vlm: LoadedModel) -> View:
    """Three text rows or four: fewer than there are pivots of the text, in one row of a padded batch."""
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(5, 200, (2, 4), generator=generator)
    prompt = PromptBatch(ids[:, :1], ids, torch.tensor([2, 4]))
    image_embeds = torch.randn(2, vlm.spec.image_tokens, vlm.spec.decoder.hidden, generator=generator)
    return embed_pixels(vlm, image_embeds, prompt, ["a", "b"])


@pytest.mark.parametrize("prune_layer", [0, 2])
@pytest.mark.parametrize("make", [view_of, short_view])
def test_dart_equals_a_loop_over_what_the_stock_model_has(vlm, prune_layer, make):
    view = make(vlm)
    order = order_of(TOKEN_PRUNERS["dart"](setting_of(vlm, prune_layer))(view))
    layer = vlm.model.model.language_model.layers[prune_layer]
    keys: list[torch.Tensor] = []
    producer = getattr(layer.self_attn, "k_norm", layer.self_attn.k_proj)
    hook = producer.register_forward_hook(lambda module, inputs, output: keys.append(output))
    start, tokens = view.prompt.prefix_ids.shape[1], vlm.spec.image_tokens
    for row in range(len(order)):
        hidden = stock(vlm, view, row, output_hidden_states=True).hidden_states[prune_layer][0]
        norms = keys[row][0].flatten(1).norm(dim=1)
        assert order[row] == loop_dart(hidden.double().numpy(), norms.double().numpy(), start, tokens)
    hook.remove()
    assert len(keys) == len(order)


# --- ShortGPT -------------------------------------------------------------------------------------------------------


def test_shortgpt_is_the_influence_that_hooks_on_the_stock_model_measure(vlm):
    setting = setting_of(vlm)
    count = vlm.spec.decoder.layers
    cosines: list[list[torch.Tensor]] = [[] for _ in range(count)]

    def watch(index):
        def hook(module, inputs, output):
            before, after = inputs[0][0].double(), output[0].double()
            cosines[index].append((before * after).sum(1) / before.norm(dim=1) / after.norm(dim=1))

        return hook

    layers = vlm.model.model.language_model.layers
    hooks = [layer.register_forward_hook(watch(index)) for index, layer in enumerate(layers)]
    for view in setting.calibration:
        for row in range(len(view.identity)):
            stock(vlm, view, row)
    for hook in hooks:
        hook.remove()
    expected = torch.stack([1 - torch.cat(rows).mean() for rows in cosines])
    scores = LAYER_PRUNERS["shortgpt"](setting)(view_of(vlm))
    torch.testing.assert_close(scores, expected.float().expand(3, -1), rtol=1e-4, atol=1e-6)
    assert expected.unique().numel() == count


def test_shortgpt_drops_a_layer_that_does_nothing(tmp_path):
    vlm = load_model(write_random_checkpoint(tmp_path, SHAPES["llama"]))
    with torch.no_grad():
        for part in ("self_attn.o_proj", "mlp.down_proj"):
            vlm.model.model.language_model.layers[3].get_submodule(part).weight.zero_()
    scores = LAYER_PRUNERS["shortgpt"](setting_of(vlm))(view_of(vlm))
    assert scores[0].argmin() == 3
    assert scores[0, 3] < 1e-6
    assert not kept_layer_mask(scores, 4, 2)[:, 3].any()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**31))
def test_greedy_orders_are_permutations_whatever_the_features(count, width, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randint(-1, 2, (2, count, width), generator=generator).double()  # many equal, opposite and zero
    kernel = features @ features.transpose(1, 2)
    weight = torch.randint(0, 3, (2, count), generator=generator).double()
    everyone = torch.arange(count).expand(2, -1)
    assert torch.equal(greedy_max_min(1 - kernel).sort().values, everyone)
    assert torch.equal(greedy_determinant(kernel + RIDGE * torch.eye(count), weight).sort().values, everyone)
