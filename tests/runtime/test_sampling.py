"""From logits to tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allrounder.errors import BackendError, InputInvalid
from allrounder.runtime.sampling import Sampling, _shares, picker


def logits(*values):
    return np.asarray(values, np.float32)


def draws(sampling, values, count=300):
    pick = picker(sampling)
    return [pick(values) for _ in range(count)]


def test_greedy_takes_the_lowest_id_on_ties():
    assert picker(Sampling())(logits(0, 3, 3, -1)) == 1


def test_a_seed_repeats_its_draws_and_another_does_not():
    values = np.random.default_rng(1).normal(size=50).astype(np.float32)
    first, again, other = (draws(Sampling(1.0, seed=seed), values) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_a_top_p_of_almost_one_leaves_no_more_than_the_last_out():
    """Rounding may keep the running sum below what it is to reach."""
    generator = np.random.default_rng(0)
    for size in generator.integers(2, 60, 200):
        shares = _shares(generator.standard_normal(size), Sampling(1.0, top_p=float(np.nextafter(1.0, 0))))
        assert np.count_nonzero(shares) >= size - 1


def test_draws_follow_the_probabilities():
    shares = np.array([0.5, 0.3, 0.2])
    counts = np.bincount(draws(Sampling(1.0, seed=0), np.log(shares).astype(np.float32), 6000), minlength=3) / 6000
    assert np.abs(counts - shares).max() < 0.03


def test_temperature_sharpens_and_flattens():
    values = logits(0, 1)
    share = [np.mean(draws(Sampling(t, seed=0), values, 4000)) for t in (0.25, 1.0, 4.0)]
    assert share[0] > 0.95 > share[1] > 0.7 > share[2] > 0.5


def test_top_k_and_top_p_leave_the_others_out():
    values = np.log(np.array([0.1, 0.5, 0.3, 0.1], np.float32))
    assert set(draws(Sampling(1.0, top_k=2, seed=0), values)) == {1, 2}
    assert set(draws(Sampling(1.0, top_k=1, seed=0), values)) == {1}
    assert set(draws(Sampling(1.0, top_p=0.75, seed=0), values)) == {1, 2}
    assert set(draws(Sampling(1.0, top_p=0.01, seed=0), values)) == {1}
    assert set(draws(Sampling(1.0, top_k=99, seed=0), values)) == {0, 1, 2, 3}


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40), st.integers(0, 5), st.floats(0.05, 1))
def test_what_is_drawn_is_among_the_best(values, top_k, top_p):
    row = np.asarray(values, np.float32)
    token = picker(Sampling(0.7, top_k=top_k, top_p=top_p, seed=3))(row)
    assert 0 <= token < len(values)
    if top_k:
        assert (row > row[token]).sum() < top_k


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_numbers_are_refused(sampling, bad):
    with pytest.raises(BackendError, match="not numbers"):
        picker(sampling)(logits(0, bad, 1))


def test_a_temperature_near_zero_is_greedy():
    assert set(draws(Sampling(1e-300, seed=0), logits(0, 1, 2))) == {2}


def test_masked_tokens_are_never_drawn():
    assert set(draws(Sampling(1.0, seed=0), logits(0, -np.inf, 0))) == {0, 2}


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_p": 0},
        {"top_p": 1.01},
        {"seed": -1},
        {"seed": 0.5},
    ],
)
def test_impossible_options_are_refused(arguments):
    with pytest.raises(InputInvalid):
        Sampling(**arguments)
