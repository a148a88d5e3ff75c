"""The selection rule, against its definition written as plain Python."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allrounder.errors import InputInvalid, InvalidBudget
from allrounder.layout import PromptLayout, keep_counts
from allrounder.router.selection import keep_indices, kept_layer_mask, ranking

# Few distinct values, so that ties are the rule and not the exception; both zeros, infinities and NaN among them.
VALUES = st.sampled_from([-math.inf, -1.5, -0.0, 0.0, 0.25, 1.0, math.inf, math.nan])
ROWS = st.lists(VALUES, min_size=1, max_size=24)


def best_first(row: list[float]) -> list[int]:
    clean = [-math.inf if math.isnan(value) else value for value in row]
    return sorted(range(len(row)), key=lambda index: (-clean[index], index))


RULES = st.fractions(Fraction(1, 30), 1, max_denominator=30) | st.integers(2, 26)


@st.composite
def prompts(draw) -> tuple[torch.Tensor, torch.Tensor, list[list[int]]]:
    """Scores [B, N] and image_of [B, N] of ragged rows, and the rows' N_i."""
    rows = draw(st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=1, max_size=4))
    tokens = max(map(sum, rows))
    scores = draw(st.lists(st.lists(VALUES, min_size=tokens, max_size=tokens), min_size=len(rows), max_size=len(rows)))
    owners = [[image for image, count in enumerate(row) for _ in range(count)] for row in rows]
    padded = [row + [-1] * (tokens - len(row)) for row in owners]
    image_of = torch.tensor(padded, dtype=torch.int64).reshape(len(rows), tokens)
    return torch.tensor(scores).reshape(len(rows), tokens), image_of, rows


@given(given=prompts(), rule=RULES)
def test_keep_indices_is_the_documented_rule(given, rule):
    """Also: rows do not see each other, and what scores hold at padding is not read."""
    scores, image_of, rows = given
    kept = keep_indices(scores, image_of, rule)
    assert kept.dtype == torch.int64
    wanted = []
    for row, counts in enumerate(rows):
        owners = tuple(image_of[row, : sum(counts)].tolist())
        quotas, best = keep_counts(PromptLayout((), (), owners, (), 0), rule), []
        for image, quota in enumerate(quotas):
            own = [index for index in best_first(scores[row].tolist()) if owners[index : index + 1] == (image,)]
            best += own[:quota]
        wanted.append(sorted(best))
    longest = max(map(len, wanted))
    assert kept.tolist() == [row + [-1] * (longest - len(row)) for row in wanted]


@given(row=ROWS, data=st.data())
def test_kept_layers_keeps_the_first_layers_and_the_best_others(row, data):
    prune_layer = data.draw(st.integers(0, len(row) - 1))
    layers = data.draw(st.integers(max(prune_layer, 1), len(row)))
    mask = kept_layer_mask(torch.tensor([row]), layers, prune_layer)[0]
    others = [index for index in best_first(row) if index >= prune_layer][: layers - prune_layer]
    assert mask.nonzero().flatten().tolist() == sorted([*range(prune_layer), *others])


@given(given=prompts(), rules=st.tuples(RULES, RULES))
def test_keep_rules_are_nested(given, rules):
    scores, image_of, _ = given
    if isinstance(rules[0], int) != isinstance(rules[1], int):
        return  # a share and a count cannot be compared for images of different sizes
    small, large = (keep_indices(scores, image_of, rule).tolist() for rule in sorted(rules))
    assert all(set(few) <= {*many, -1} for few, many in zip(small, large, strict=True))


@given(row=ROWS, data=st.data())
def test_kept_layers_are_nested(row, data):
    small = data.draw(st.integers(1, len(row)))
    large = data.draw(st.integers(small, len(row)))
    scores = torch.tensor([row])
    assert not (kept_layer_mask(scores, small, 0) & ~kept_layer_mask(scores, large, 0)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_long_rows_of_ties_keep_the_lower_indices(dtype):
    scores, image_of = torch.zeros(2, 5000, dtype=dtype), torch.zeros(2, 5000, dtype=torch.int64)
    assert keep_indices(scores, image_of, 144).tolist() == [list(range(144))] * 2
    assert torch.equal(ranking(scores)[0], torch.arange(5000))


@pytest.mark.parametrize(("layers", "prune_layer"), [(0, 0), (1, 2), (6, 2), (3, 5), (3, -1)])
def test_impossible_layer_budgets_are_refused(layers, prune_layer):
    with pytest.raises(InvalidBudget):
        kept_layer_mask(torch.zeros(1, 5), layers, prune_layer)


@pytest.mark.parametrize("scores", [torch.zeros(5), torch.zeros(1, 5, dtype=torch.int64), torch.zeros(1, 1, 5)])
def test_scores_that_are_none_are_refused(scores):
    with pytest.raises(InputInvalid, match="float"):
        keep_indices(scores, torch.zeros(1, 5, dtype=torch.int64), 2)
    with pytest.raises(InputInvalid, match="float"):
        kept_layer_mask(scores, 1, 0)


def test_scores_of_another_prompt_are_refused():
    with pytest.raises(InputInvalid, match="one score per image token"):
        keep_indices(torch.zeros(1, 5), torch.zeros(1, 6, dtype=torch.int64), 2)
