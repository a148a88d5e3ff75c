"""Faults of canvases, planted: the comparisons of `test_families.py` must see them."""

from __future__ import annotations

import numpy as np
import pytest
from tile_models import SIZES, assert_image_tokens, assert_removed_equals_masked, frozen

from allrounder.errors import InputInvalid, VerificationFailed
from allrounder.export import vision
from allrounder.export.verify.verify import verify
from allrounder.images import planning
from allrounder.runtime import engine as engine_module
from allrounder.versions import EVERYTHING


def without_newlines(graph, rows, dtype, hidden):
    """The vision graph as it is, zeros for the learned row."""
    real = graph.weight
    graph.weight = lambda name: (
        graph.constant(np.zeros(hidden, np.float32), "none") if name.endswith("image_newline") else real(name)
    )
    return LAID_OUT(graph, rows, dtype, hidden)


LAID_OUT = vision._laid_out


def test_a_vision_graph_without_the_newline_is_found(vlms, tmp_path, monkeypatch):
    monkeypatch.setattr(vision, "_laid_out", without_newlines)
    vlm = vlms("next-clip-mistral")
    router, folder = frozen(vlm, tmp_path)
    with pytest.raises(VerificationFailed, match="image_embeds"):
        verify(folder, vlm.source, router)


def test_padding_off_by_one_is_found(vlms, monkeypatch):
    real, vlm, sizes = planning._padding, vlms("next-clip-mistral"), [(20, 200)]

    def off_by_one(size, grid):
        above, before = real(size, grid)
        return max(above - 1, 0), max(before - 1, 0)

    assert_removed_equals_masked(vlm, sizes, EVERYTHING, (0, 1, 2), 2)
    monkeypatch.setattr(planning, "_padding", off_by_one)
    with pytest.raises(InputInvalid, match="image tokens and prompts do not fit"):
        assert_removed_equals_masked(vlm, sizes, EVERYTHING, (0, 1, 2), 2)


def test_rows_off_by_one_are_found(vlms, built, monkeypatch):
    """As many image tokens, those of the canvas each taken from the row of tokens before its own."""
    real, shape = engine_module.token_sources, "onevision-siglip-qwen2"

    def off_by_one(plan, planned):
        sources = real(plan, planned)
        newline = sources.rows.max()
        return sources._replace(rows=np.where(sources.rows == newline, newline, np.maximum(sources.rows - 1, 0)))

    monkeypatch.setattr(engine_module, "token_sources", off_by_one)
    with pytest.raises(AssertionError):
        assert_image_tokens(vlms(shape), built(shape)[2][0], SIZES[:1])
