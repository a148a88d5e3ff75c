"""FastV, DART and ShortGPT, each held to a plain computation of what its docstring says, and to the stock model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from pruner_views import SHAPES, order_of, setting_of, stock, view_of

from allrounder.router.pruners import LAYER_PRUNERS, TOKEN_PRUNERS, View, embed_pixels
from allrounder.router.pruners.inside import PIVOTS
from allrounder.router.selection import kept_layer_mask
from allrounder.vlm.llava.random_model import write_random_checkpoint
from allrounder.vlm.model import LoadedModel, load_model
from allrounder.vlm.prompt import PromptBatch


@pytest.fixture(scope="module", params=SHAPES)
def vlm(request, tmp_path_factory) -> LoadedModel:
    return load_model(write_random_checkpoint(tmp_path_factory.mktemp("model"), SHAPES[request.param]))


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
