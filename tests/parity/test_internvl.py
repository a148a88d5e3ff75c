"""Faults of InternVL's tower, tiles and marks, planted: the comparisons of `test_families.py` must see them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
from stock_processors import stock_processor
from tile_models import TOLERANCE, asked, assert_image_tokens, frozen, prompt_of, rgb

from allrounder.errors import VerificationFailed
from allrounder.export import vision
from allrounder.export.verify.verify import verify
from allrounder.images import planning
from allrounder.vlm.prompt import model_layouts

SHAPE = "internvl-qwen2"
SIZE = (120, 130)  # 2 x 2 tiles or more, and the whole


def columns_first(graph, spec, features):
    """The vision graph's squares, read column by column."""
    side, channels = spec.grid // spec.merge, spec.hidden
    split = graph.node("Reshape", [features, graph.ints(-1, side, spec.merge, side, spec.merge, channels)], "split")
    squares = graph.node("Transpose", [split], "squares", perm=[0, 1, 3, 4, 2, 5])
    return graph.node("Reshape", [squares, graph.ints(-1, side * side, channels * spec.merge**2)], "merged")


def without_norm(graph, spec, rows):
    return PROJECTED(graph, dataclasses.replace(spec, norm_eps=None), rows)


PROJECTED = vision._projected


@pytest.mark.parametrize(
    ("part", "fault", "found"),
    [
        ("_merged", columns_first, "image_embeds"),
        ("_projected", without_norm, "image_embeds"),
        ("_scaled", lambda graph, spec, added, weight, name: added, "vision.0.hidden"),
    ],
)
def test_a_vision_graph_that_computes_otherwise_is_found(vlms, tmp_path, monkeypatch, part, fault, found):
    monkeypatch.setattr(vision, part, fault)
    vlm = vlms(SHAPE)
    router, folder = frozen(vlm, tmp_path)
    with pytest.raises(VerificationFailed, match=found):
        verify(folder, vlm.source, router)


def test_rows_and_columns_of_tiles_that_are_swapped_are_found(vlms, built, monkeypatch):
    vlm, (_, _, engines) = vlms(SHAPE), built(SHAPE)
    wanted, size = prompt_of(vlm, [(40, 150)])[1].numpy(), (40, 150)
    assert_image_tokens(vlm, engines[0], [size])
    real = planning._nearest
    monkeypatch.setattr(planning, "_nearest", lambda *arguments: real(*arguments)[::-1])
    got = engines[0].embed(engines[0].prepare([rgb(size)])).numpy()
    assert got.shape == wanted.shape, "as many tiles: ids do not tell"
    assert np.abs(got - wanted).max() > TOLERANCE * wanted.std()


@pytest.mark.parametrize("edit", [{"before": "</img>"}, {"after": ""}, {"most": 1}])
def test_other_marks_or_tiles_give_other_ids(vlms, edit):
    vlm, messages = vlms(SHAPE), asked(1)
    messages[0]["content"][0]["image"] = rgb(SIZE)
    stock = stock_processor(Path(vlm.source)).apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    layout = msgspec.structs.replace(vlm.images.layout, **edit)
    other = dataclasses.replace(vlm, images=msgspec.structs.replace(vlm.images, layout=layout))
    ours = [list(model_layouts(each, [asked(1)], sizes=[[SIZE]])[0].input_ids) for each in (vlm, other)]
    assert ours[0] == stock["input_ids"][0].tolist() != ours[1]
