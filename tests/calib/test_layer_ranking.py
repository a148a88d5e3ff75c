"""The rules that choose static layers."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from msgspec.structs import replace
from prunings import pruning

from allrounder.calib.layer_ranking import order_from, ranked


@st.composite
def rankings(draw):
    layers = draw(st.integers(1, 9))
    prune_layer = draw(st.integers(0, layers - 1))
    prompts = draw(st.integers(1, 7))
    # few distinct values, so that ties are common; NaN and infinities too
    values = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0, float("nan"), float("inf"), float("-inf")])
    return draw(arrays(np.float32, (prompts, layers), elements=values)), prune_layer


@given(rankings())
def test_an_order_holds_each_votable_layer_once(ranking):
    scores, prune_layer = ranking
    assert sorted(order_from(scores, prune_layer)) == list(range(prune_layer, scores.shape[1]))


@given(rankings())
def test_kept_layers_of_one_order_are_nested_and_exact(ranking):
    scores, prune_layer = ranking
    order = order_from(scores, prune_layer)
    budgets = [(1, count) for count in range(max(prune_layer, 1), scores.shape[1] + 1)]
    unranked = [replace(pruning(each, prune_layer), layer_policy="static") for each in budgets]
    lists = [ranked(each, order).kept_layers for each in unranked]
    for count, kept in enumerate(lists, start=max(prune_layer, 1)):
        assert len(set(kept)) == len(kept) == count
        assert list(kept) == sorted(kept)
        assert set(range(prune_layer)) <= set(kept)
    for smaller, larger in itertools.pairwise(lists):
        assert set(smaller) < set(larger)


@given(rankings(), st.randoms(use_true_random=False))
def test_the_order_of_prompts_does_not_matter(ranking, random):
    scores, prune_layer = ranking
    rows = list(range(len(scores)))
    random.shuffle(rows)
    assert order_from(scores[rows], prune_layer) == order_from(scores, prune_layer)


@given(rankings(), st.floats(0.1, 100))
def test_only_ranks_count(ranking, factor):
    scores, prune_layer = ranking
    assert order_from(scores * np.float32(factor), prune_layer) == order_from(scores, prune_layer)


def test_mean_rank_decides_and_ties_go_to_the_lower_index():
    scores = np.array([[9, 3, 2, 1], [9, 1, 2, 3], [9, 3, 2, 1]], np.float32)
    assert order_from(scores, 1) == (1, 2, 3)  # ranks 0+2+0, 1+1+1, 2+0+2
    assert order_from(np.zeros((2, 4), np.float32), 0) == (0, 1, 2, 3)


def test_one_loud_prompt_does_not_outvote_many():
    scores = np.array([[0, 1], [0, 1], [1000, 0]], np.float32)
    assert order_from(scores, 0) == (1, 0)


def test_only_static_layers_that_nobody_ranked_are_ranked():
    for known in (pruning((1, 3), 2, (0, 1, 4)), pruning((1, 3), 2, None)):
        assert ranked(known, (2, 3, 4)) == known
