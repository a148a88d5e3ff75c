"""Faults of SmolVLM's and Idefics3's tower, tiles and marks, planted: `test_families.py` must see them."""

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
from allrounder.images import pixels, planning
from allrounder.vlm.prompt import model_layouts

SMOLVLM, IDEFICS3 = "smolvlm-llama", "idefics3-llama"
SIZE = (40, 150)  # a row of tiles, and the whole


def without_last_norm(graph, eps, rows, weight, name):
    return rows if weight == "vision.last_norm" else NORM(graph, eps, rows, weight, name)


def columns_first(graph, spec, features):
    """The vision graph's squares, read column by column."""
    side, channels = spec.grid // spec.merge, spec.hidden
    split = graph.node("Reshape", [features, graph.ints(-1, side, spec.merge, side, spec.merge, channels)], "split")
    squares = graph.node("Transpose", [split], "squares", perm=[0, 1, 3, 4, 2, 5])
    return graph.node("Reshape", [squares, graph.ints(-1, side * side, channels * spec.merge**2)], "merged")


NORM = vision._norm


@pytest.mark.parametrize(("part", "fault"), [("_norm", without_last_norm), ("_merged", columns_first)])
def test_a_vision_graph_that_computes_otherwise_is_found(vlms, tmp_path, monkeypatch, part, fault):
    monkeypatch.setattr(vision, part, fault)
    vlm = vlms(SMOLVLM)
    router, folder = frozen(vlm, tmp_path)
    with pytest.raises(VerificationFailed, match="image_embeds"):
        verify(folder, vlm.source, router)


def test_tiles_column_by_column_are_found(vlms, built, monkeypatch):
    """As many tiles, and the same ids."""
    vlm, engine, size = vlms(SMOLVLM), built(SMOLVLM)[2][0], (120, 130)
    assert_image_tokens(vlm, engine, [size])
    wanted, real = prompt_of(vlm, [size])[1].numpy(), pixels._view

    def columns(plan, view, picture):
        tiles = real(plan, view, picture)
        return tiles.reshape(view.rows, view.columns, *tiles.shape[1:]).swapaxes(0, 1).reshape(tiles.shape)

    monkeypatch.setattr(pixels, "_view", columns)
    got = engine.embed(engine.prepare([rgb(size)])).numpy()
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() > TOLERANCE * wanted.std()


def ids_of(vlm):
    return list(model_layouts(vlm, [asked(1)], sizes=[[SIZE]])[0].input_ids)


def stock_ids(vlm):
    messages = asked(1)
    messages[0]["content"][0]["image"] = rgb(SIZE)
    stock = stock_processor(Path(vlm.source)).apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return list(stock["input_ids"][0])


@pytest.mark.parametrize("shape", [SMOLVLM, IDEFICS3])
@pytest.mark.parametrize("edit", [{"around": "<image>"}, {"whole": ""}, {"edge": 20}, {"split": False}])
def test_other_marks_or_tiles_give_other_ids(vlms, shape, edit):
    vlm = vlms(shape)
    layout = msgspec.structs.replace(vlm.images.layout, **edit)
    other = dataclasses.replace(vlm, images=msgspec.structs.replace(vlm.images, layout=layout))
    assert ids_of(vlm) == stock_ids(vlm) != ids_of(other)


@pytest.mark.parametrize("shape", [SMOLVLM, IDEFICS3])
@pytest.mark.parametrize("fault", [("\n\n", "\n"), ("col_2", "col_1")])
def test_rows_of_tiles_that_are_marked_otherwise_are_found(vlms, monkeypatch, shape, fault):
    vlm, real = vlms(shape), planning._marked

    def marked(*arguments):
        planned = real(*arguments)
        return planned._replace(
            content=tuple(part.replace(*fault) if isinstance(part, str) else part for part in planned.content)
        )

    assert ids_of(vlm) == stock_ids(vlm)
    monkeypatch.setattr(planning, "_marked", marked)
    assert ids_of(vlm) != stock_ids(vlm)
