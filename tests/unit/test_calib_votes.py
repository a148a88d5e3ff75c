"""The rules that freeze a layer plan."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from allrounder.calib.votes import order_from, plan_from
from allrounder.errors import InvalidBudget


@st.composite
def votes(draw):
    layers = draw(st.integers(1, 9))
    gather_layer = draw(st.integers(0, layers - 1))
    prompts = draw(st.integers(1, 7))
    # few distinct values, so that ties are common; NaN and infinities too
    values = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0, float("nan"), float("inf"), float("-inf")])
    return draw(arrays(np.float32, (prompts, layers), elements=values)), gather_layer


@given(votes())
def test_an_order_holds_each_votable_layer_once(vote):
    scores, gather_layer = vote
    assert sorted(order_from(scores, gather_layer)) == list(range(gather_layer, scores.shape[1]))


@given(votes())
def test_plans_of_one_order_are_nested_and_exact(vote):
    scores, gather_layer = vote
    order = order_from(scores, gather_layer)
    plans = [plan_from(order, count, gather_layer) for count in range(max(gather_layer, 1), scores.shape[1] + 1)]
    for count, plan in enumerate(plans, start=max(gather_layer, 1)):
        assert len(set(plan)) == len(plan) == count
        assert list(plan) == sorted(plan)
        assert set(range(gather_layer)) <= set(plan)
    for smaller, larger in itertools.pairwise(plans):
        assert set(smaller) < set(larger)


@given(votes(), st.randoms(use_true_random=False))
def test_the_order_of_prompts_does_not_matter(vote, random):
    scores, gather_layer = vote
    rows = list(range(len(scores)))
    random.shuffle(rows)
    assert order_from(scores[rows], gather_layer) == order_from(scores, gather_layer)


@given(votes(), st.floats(0.1, 100))
def test_only_ranks_count(vote, factor):
    scores, gather_layer = vote
    assert order_from(scores * np.float32(factor), gather_layer) == order_from(scores, gather_layer)


def test_mean_rank_decides_and_ties_go_to_the_lower_index():
    scores = np.array([[9, 3, 2, 1], [9, 1, 2, 3], [9, 3, 2, 1]], np.float32)
    assert order_from(scores, 1) == (1, 2, 3)  # ranks 0+2+0, 1+1+1, 2+0+2
    assert order_from(np.zeros((2, 4), np.float32), 0) == (0, 1, 2, 3)


def test_one_loud_prompt_does_not_outvote_many():
    scores = np.array([[0, 1], [0, 1], [1000, 0]], np.float32)
    assert order_from(scores, 0) == (1, 0)


@pytest.mark.parametrize("layers", [0, 1, 5, -1])
def test_an_impossible_plan_is_refused(layers):
    with pytest.raises(InvalidBudget):
        plan_from((3, 2), layers, 2)
