"""Figures by number of tiles, and what budgets cost, both of each question's own number of image tokens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_outcomes import entry, outcomes
from msgspec.structs import replace
from prunings import pruning

from allrounder.calib.flops import DecoderSize, true_flops
from allrounder.calib.report.costs import Asked, costs
from allrounder.calib.report.tiles import by_tiles
from allrounder.calib.report.work_list import Subject, WorkList
from allrounder.fidelity_report import ROUTER
from allrounder.versions import Budget
from allrounder.vlm.config import read_spec
from allrounder.vlm.random.model import random_config

TILES = np.array([2, 3, 3, 5, 5, 5, 2, 3])
GRID = 6  # of eight questions
SUBJECTS = (
    Subject(ROUTER, "full", "static", 8),
    Subject(ROUTER, "par-lite", "dynamic", 8),
    Subject("downscale+shortgpt", "par-lite", "dynamic", GRID),
    Subject(ROUTER, "t1-l3", "dynamic", 8),
)


def measured():
    """Full; a version right about five tiles alone; downscaling, which keeps a token less; layers alone."""
    full, router = outcomes(np.ones(8), tiles=TILES), outcomes(TILES == 5, tiles=TILES)
    smaller = outcomes(np.ones(GRID), tiles=TILES[:GRID])
    smaller = dataclasses.replace(smaller, kept_tokens=smaller.kept_tokens - 1)
    return full, router, smaller, router


def test_every_number_of_tiles_has_the_rows_of_its_own_questions():
    found = by_tiles(WorkList(SUBJECTS, 8, GRID), measured())
    assert [(each.tiles, each.questions, each.image_tokens) for each in found] == [(2, 1, 40), (3, 2, 60), (5, 3, 100)]
    for each in found:
        assert [row.pruner for row in each.rows] == [ROUTER, ROUTER, "downscale+shortgpt"], "no layers alone"
        full, router, smaller = each.rows
        assert {row.figures.questions for row in each.rows} == {each.questions}
        assert full.figures.agreement.mean == 1
        assert router.figures.agreement.mean == (each.tiles == 5)
        assert (router.kept_tokens, smaller.kept_tokens) == (5 * each.tiles, 5 * each.tiles - 1)


def test_without_a_grid_all_questions_count_and_one_number_of_tiles_needs_no_table():
    subjects = tuple(each for each in SUBJECTS if each.pruner == ROUTER)
    full, router, _, layers = measured()
    found = by_tiles(WorkList(subjects, 8, 0), (full, router, layers))
    assert [each.questions for each in found] == [2, 3, 3]
    one = outcomes(np.ones(8))
    assert by_tiles(WorkList(subjects, 8, 0), (one, one, one)) == ()


def test_costs_are_of_each_questions_own_image_tokens():
    spec = read_spec(random_config("onevision-siglip-qwen2"))
    decoder, tokens, shown = spec.decoder, np.array([21, 21, 54]), np.array([4, 10])
    size = DecoderSize(decoder.hidden, decoder.feed_forward, decoder.heads, decoder.kv_heads, decoder.head_dim, 5)
    made = entry("dynamic")
    full = replace(made, pruning=pruning((1, 5), 0, tuple(range(5)), "full"), graphs=replace(made.graphs, router=None))
    version = replace(made, pruning=replace(made.pruning, keep="1/4", layers=4))
    asked = Asked(tokens, 30, {("par-lite", "dynamic"): shown})
    (cost,) = costs(spec, [full, version], asked, 1, [None, None])

    def flops(number, kept, layers, *, router=0, prune_layer=2):
        budget = Budget(kept, layers)
        facts = {"image_tokens": number, "text_tokens": 30, "prune_layer": prune_layer, "router_layers": router}
        return true_flops(size, budget, **facts)

    kept = [5, 5, 14]
    whole = [flops(number, number, 5) for number in tokens]
    assert cost.flops_alone == pytest.approx(
        sum(flops(n, t, 4) for n, t in zip(tokens, kept, strict=True)) / sum(whole)
    )
    routed = sum(flops(n, t, 4, router=1) for n, t in zip(tokens, kept, strict=True))
    assert cost.flops == pytest.approx(routed / sum(whole))
    assert cost.flops_downscaled == pytest.approx(sum(flops(t, t, 4) for t in shown) / sum(whole[:2]))
    tile = flops(9, 2, 4) / flops(9, 9, 5)
    assert abs(cost.flops_alone - tile) > 0.01, "a tile's share is another"
