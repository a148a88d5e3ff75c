"""Baseline pruners: what holds for all of them, and those that read nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from allrounder.errors import CalibrationError, InputInvalid, InvalidBudget
from allrounder.layout import sequential_layout
from allrounder.router.pruners import LAYER_PRUNERS, TOKEN_PRUNERS, Setting, View, combined, embed_pixels, pruner
from allrounder.router.pruners.plain import stride_order
from allrounder.router.selection import keep_indices, kept_layer_mask, ranking
from allrounder.vlm.model import LoadedModel, load_model
from allrounder.vlm.prompt import model_prompt, prompt_batch
from allrounder.vlm.random.model import Shape, write_random_checkpoint

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


def ragged_view(vlm: LoadedModel) -> View:
    """No image; two; one, whose tokens are those of the second of the two."""
    token, count = vlm.spec.image_token_id, vlm.spec.image_tokens
    ids = [(7, 8, 9), (10, token, 11, 12, token, 13, 14), (token, 15, 16)]
    prompt = prompt_batch([sequential_layout(each, token, [count] * each.count(token)) for each in ids])
    image_embeds = torch.randn(3, 2 * count, vlm.spec.decoder.hidden, generator=torch.Generator().manual_seed(3))
    image_embeds[2, :count] = image_embeds[1, count:]
    image_embeds = image_embeds.masked_fill(prompt.image_of[..., None] < 0, 0)
    return embed_pixels(vlm, image_embeds, prompt, ["a", "b", "c"])


def kept(scores, count: int) -> torch.Tensor:
    """Of one image per row."""
    return keep_indices(scores.token_scores, torch.zeros_like(scores.token_scores, dtype=torch.int64), count)


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
    assert len(set(view.prompt.lengths.tolist())) > 1, "nothing is padded"
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


@pytest.mark.parametrize("name", TOKEN_PRUNERS)
def test_each_image_of_a_ragged_batch_is_ranked_by_itself(vlm, name):
    setting, view = setting_of(vlm), ragged_view(vlm)
    prune, count = pruner(f"{name}+shortgpt", setting).scores, vlm.spec.image_tokens
    scores = prune(view)
    assert torch.equal(scores.token_scores.isneginf(), view.prompt.image_of < 0)
    assert scores.layer_scores.isfinite().all()
    for row in range(3):
        one = view.prompt.row(row)
        single = prune(
            embed_pixels(vlm, view.image_embeds[row : row + 1, : one.image_of.shape[1]], one, [view.identity[row]])
        )
        tokens = one.image_of.shape[1]
        for start in range(0, tokens, count):
            image = slice(start, start + count)
            found = scores.token_scores[row : row + 1, image]
            assert order_of(found) == order_of(single.token_scores[:, image])
            if name not in {"fastv", "none"}:
                assert sorted(found[0].tolist()) == list(range(1, count + 1)), "a ranking of the image's own tokens"
    if name in {"stride", "divprune", "none"}:  # what sees nothing but the image
        twice = scores.token_scores[1:2, count:], scores.token_scores[2:3, :count]
        assert order_of(twice[0]) == order_of(twice[1])


@pytest.mark.parametrize("name", sorted(MEASURING | {"random"}))
def test_token_scores_do_not_tie(vlm, name):
    scores = TOKEN_PRUNERS[name](setting_of(vlm))(view_of(vlm))
    assert all(row.unique().numel() == vlm.spec.image_tokens for row in scores)


@pytest.mark.parametrize("name", TOKEN_PRUNERS)
def test_what_stands_in_the_padding_does_not_matter(vlm, name):
    prune, view = TOKEN_PRUNERS[name](setting_of(vlm)), view_of(vlm)
    changed = view.embeddings.clone()
    for row, end in enumerate(view.prompt.lengths):
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
    scores = pruner(name, setting_of(vlm)).scores(view_of(vlm))
    small, large = kept(scores, 6), kept(scores, 14)
    for few, many in zip(small.tolist(), large.tolist(), strict=True):
        assert set(few) < set(many)
    assert kept_layer_mask(scores.layer_scores, 3, 2)[:, :2].all()


def test_nobody_scoring_keeps_the_first(vlm):
    scores = pruner("none+none", setting_of(vlm)).scores(view_of(vlm))
    assert kept(scores, 5).tolist() == [list(range(5))] * 3
    assert kept_layer_mask(scores.layer_scores, 4, 2).tolist() == [[True] * 4 + [False]] * 3
    first = pruner("none+first", setting_of(vlm)).scores(view_of(vlm))
    assert torch.equal(first.layer_scores, scores.layer_scores)


def test_a_pruner_of_ones_own_and_a_layer_pruner_measured_once(vlm, monkeypatch):
    monkeypatch.setitem(TOKEN_PRUNERS, "last", lambda setting: lambda view: torch.arange(9.0).repeat(3, 1))
    setting, view = setting_of(vlm), view_of(vlm)
    assert pruner("last+none", setting).scores(view).token_scores[0].tolist() == list(range(9))
    layers = LAYER_PRUNERS["shortgpt"](setting)
    shared = combined(setting, TOKEN_PRUNERS["stride"](setting), layers)(view)
    whole = pruner("stride+shortgpt", setting).scores(view)
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
    prune = pruner("random+none", setting).scores
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
        scores = pruner(f"{name}+shortgpt", setting).scores(view)
        assert scores.token_scores.dtype == scores.layer_scores.dtype == torch.float32
        assert scores.token_scores.isfinite().all()
        assert scores.layer_scores.isfinite().all()
        assert (scores.layer_scores > 0).all()


# --- random, stride -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["token_scores", "layer_scores"])
def test_random_scores_depend_on_seed_and_identity_alone(vlm, kind):
    view = view_of(vlm)
    other = view_of(vlm, QUESTIONS[::-1], seed=3)._replace(identity=view.identity[::-1])
    first = getattr(pruner("random+random", setting_of(vlm, seed=5)).scores(view), kind)
    again = getattr(pruner("random+random", setting_of(vlm, 0, seed=5)).scores(other), kind)
    assert torch.equal(first, again.flip(0)), "images, questions, order and K must not matter"
    seeded = getattr(pruner("random+random", setting_of(vlm, seed=6)).scores(view), kind)
    assert not torch.equal(first, seeded)
    assert len({tuple(row) for row in first.tolist()}) == 3, "every question has its own draw"


def test_random_tokens_are_near_uniform(vlm):
    view = view_of(vlm, QUESTIONS[:1] * 600)._replace(identity=tuple(map(str, range(600))))
    scores = TOKEN_PRUNERS["random"](setting_of(vlm))(view)
    chosen = keep_indices(scores, torch.zeros_like(scores, dtype=torch.int64), 5).flatten()
    share = torch.zeros(vlm.spec.image_tokens).index_add_(0, chosen, torch.ones(3000)) / 600
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
