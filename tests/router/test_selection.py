"""The selection rule, against its definition written as plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allrounder.errors import InputInvalid, InvalidBudget
from allrounder.router.selection import keep_indices, kept_layer_mask, ranking

# Few distinct values, so that ties are the rule and not the exception; both zeros, infinities and NaN among them.
VALUES = st.sampled_from([-math.inf, -1.5, -0.0, 0.0, 0.25, 1.0, math.inf, math.nan])
ROWS = st.lists(VALUES, min_size=1, max_size=24)


def best_first(row: list[float]) -> list[int]:
    clean = [-math.inf if math.isnan(value) else value for value in row]
    return sorted(range(len(row)), key=lambda index: (-clean[index], index))


@given(row=ROWS, data=st.data())
def test_keep_indices_is_the_documented_rule(row, data):
    tokens = data.draw(st.integers(1, len(row)))
    kept = keep_indices(torch.tensor([row]), tokens)
    assert kept.dtype == torch.int64
    assert kept.tolist() == [sorted(best_first(row)[:tokens])]


@given(row=ROWS, data=st.data())
def test_kept_layers_keeps_the_first_layers_and_the_best_others(row, data):
    prune_layer = data.draw(st.integers(0, len(row) - 1))
    layers = data.draw(st.integers(max(prune_layer, 1), len(row)))
    mask = kept_layer_mask(torch.tensor([row]), layers, prune_layer)[0]
    others = [index for index in best_first(row) if index >= prune_layer][: layers - prune_layer]
    assert mask.nonzero().flatten().tolist() == sorted([*range(prune_layer), *others])


@given(row=ROWS, data=st.data())
def test_versions_are_nested(row, data):
    small = data.draw(st.integers(1, len(row)))
    large = data.draw(st.integers(small, len(row)))
    scores = torch.tensor([row])
    assert set(keep_indices(scores, small)[0].tolist()) <= set(keep_indices(scores, large)[0].tolist())
    assert not (kept_layer_mask(scores, small, 0) & ~kept_layer_mask(scores, large, 0)).any()


@settings(max_examples=25)
@given(rows=st.lists(st.lists(VALUES, min_size=7, max_size=7), min_size=2, max_size=4), tokens=st.integers(1, 7))
def test_rows_do_not_see_each_other(rows, tokens):
    together = keep_indices(torch.tensor(rows), tokens).tolist()
    assert together == [keep_indices(torch.tensor([row]), tokens)[0].tolist() for row in rows]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_long_rows_of_ties_keep_the_lower_indices(dtype):
    scores = torch.zeros(2, 5000, dtype=dtype)
    assert keep_indices(scores, 144).tolist() == [list(range(144))] * 2
    assert torch.equal(ranking(scores)[0], torch.arange(5000))


@pytest.mark.parametrize("tokens", [0, -1, 6])
def test_impossible_token_budgets_are_refused(tokens):
    with pytest.raises(InvalidBudget, match="1 to 5"):
        keep_indices(torch.zeros(1, 5), tokens)


@pytest.mark.parametrize(("layers", "prune_layer"), [(0, 0), (1, 2), (6, 2), (3, 5), (3, -1)])
def test_impossible_layer_budgets_are_refused(layers, prune_layer):
    with pytest.raises(InvalidBudget):
        kept_layer_mask(torch.zeros(1, 5), layers, prune_layer)


@pytest.mark.parametrize("scores", [torch.zeros(5), torch.zeros(1, 5, dtype=torch.int64), torch.zeros(1, 1, 5)])
def test_scores_that_are_none_are_refused(scores):
    with pytest.raises(InputInvalid, match="float"):
        keep_indices(scores, 1)
    with pytest.raises(InputInvalid, match="float"):
        kept_layer_mask(scores, 1, 0)
