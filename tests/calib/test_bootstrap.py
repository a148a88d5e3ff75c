"""Bootstrap intervals and the divergence they are taken over."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from allrounder.calib.bootstrap import RESAMPLES, mean_estimate, paired_estimate, ratio_estimate
from allrounder.calib.distributions import divergence, log_softmax
from allrounder.errors import CalibrationError

FIGURES = arrays(np.float64, st.integers(1, 30), elements=st.floats(-100, 100))
LOGITS = arrays(np.float32, (3, 5), elements=st.floats(-30, 30, width=32))


@given(FIGURES)
def test_a_mean_lies_in_its_interval_and_the_interval_in_the_data(figures):
    estimate = mean_estimate(figures)
    assert estimate.mean == pytest.approx(figures.mean())
    assert estimate.low <= estimate.mean <= estimate.high
    assert figures.min() - 1e-9 <= estimate.low
    assert estimate.high <= figures.max() + 1e-9


def test_the_interval_is_that_of_the_central_limit():
    figures = np.random.default_rng(0).normal(5.0, 2.0, 400)
    estimate = mean_estimate(figures)
    half = 1.96 * figures.std() / 20
    assert estimate.low == pytest.approx(figures.mean() - half, abs=0.03)
    assert estimate.high == pytest.approx(figures.mean() + half, abs=0.03)


def test_same_figures_same_interval():
    figures = np.arange(10.0)
    assert mean_estimate(figures) == mean_estimate(figures)


def test_a_ratio_to_itself_is_exactly_one():
    figures = np.array([1.0, 0, 0, 1, 1])
    estimate = ratio_estimate(figures, figures)
    assert estimate is not None
    assert (estimate.low, estimate.mean, estimate.high) == (1.0, 1.0, 1.0)


def test_a_ratio_pairs_its_questions():
    base = np.array([1.0] * 50 + [0.0] * 50)
    estimate = ratio_estimate(base * 0.5, base)
    assert estimate is not None
    assert estimate.low == estimate.high == 0.5  # unpaired resampling would spread it


def test_there_is_no_ratio_to_nothing():
    assert ratio_estimate(np.ones(3), np.zeros(3)) is None


def test_no_figure_and_an_infinite_one_are_refused():
    for figures in (np.array([]), np.array([1.0, np.nan]), np.array([np.inf])):
        with pytest.raises(CalibrationError):
            mean_estimate(figures)


@given(LOGITS, LOGITS)
def test_divergence_is_that_of_the_definition(of, against):
    p = np.exp(of.astype(np.float64)) / np.exp(of.astype(np.float64)).sum(-1, keepdims=True)
    q = np.exp(against.astype(np.float64)) / np.exp(against.astype(np.float64)).sum(-1, keepdims=True)
    assert divergence(of, against) == pytest.approx((p * np.log(p / q)).sum(-1), abs=1e-9)
    assert (divergence(of, against) >= 0).all()


@given(LOGITS, st.floats(-1000, 1000))
def test_divergence_does_not_see_a_constant(logits, constant):
    shifted = logits.astype(np.float64) + constant
    assert divergence(logits, shifted) == pytest.approx(np.zeros(3), abs=1e-9)
    assert np.exp(log_softmax(shifted)).sum(-1) == pytest.approx(np.ones(3))


@given(FIGURES)
def test_images_asked_about_once_are_the_questions(figures):
    names = [f"{number:03}.png" for number in range(len(figures))]
    assert mean_estimate(figures, names) == mean_estimate(figures)
    assert ratio_estimate(figures, np.ones_like(figures), names) == ratio_estimate(figures, np.ones_like(figures))


def test_questions_about_one_image_that_answer_alike_count_as_one():
    once = np.random.default_rng(1).normal(size=30)
    names = [f"{number:03}" for number in range(30)]
    four_times = mean_estimate(np.repeat(once, 4), list(np.repeat(names, 4)))
    assert four_times.mean == pytest.approx(mean_estimate(once).mean)
    assert four_times.low == pytest.approx(mean_estimate(once).low)
    assert four_times.high == pytest.approx(mean_estimate(once).high)


@given(FIGURES)
def test_one_image_alone_leaves_its_questions_to_be_resampled(figures):
    assert mean_estimate(figures, ["one.png"] * len(figures)) == mean_estimate(figures)


def test_order_of_questions_does_not_matter():
    generator = np.random.default_rng(4)
    figures, names = generator.normal(size=60), generator.choice([f"{n}.png" for n in range(9)], size=60)
    order = generator.permutation(60)
    one, two = mean_estimate(figures, list(names)), mean_estimate(figures[order], list(names[order]))
    assert (two.low, two.high) == pytest.approx((one.low, one.high))


def test_images_belong_to_questions():
    with pytest.raises(CalibrationError, match="not as many images"):
        mean_estimate(np.ones(3), ["a", "b"])


@given(FIGURES)
def test_paired_shares_hold_both_sides_and_never_say_never(figures):
    paired = paired_estimate(figures)
    assert paired.difference == mean_estimate(figures)
    assert paired.not_above + paired.not_below >= 1
    assert min(paired.not_above, paired.not_below) >= 1 / RESAMPLES
    assert paired_estimate(-figures).not_above == paired.not_below
