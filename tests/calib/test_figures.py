"""From hand-made outcomes to figures, rows, comparisons and recommendations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_outcomes import LAYERS, entry, outcomes
from prunings import pruning

from allrounder.calib.bootstrap import RESAMPLES
from allrounder.calib.fidelity import FULL_REPORT
from allrounder.calib.figures import TOLERANCE, compare, fidelity_of, figures, kinds, recommend, row, summarize
from allrounder.errors import CalibrationError
from allrounder.fidelity_report import ROUTER, Row
from allrounder.manifest import Estimate, Figures


def made_row(agreement, policy):
    estimate = Estimate(mean=agreement, low=agreement, high=agreement)
    return Row(
        pruner=ROUTER,
        pruning=pruning((5, 3), 2, (0, 1, 3) if policy == "static" else None, "par-lite"),
        figures=Figures(questions=9, accuracy=None, retention=None, agreement=estimate, kl=estimate),
        kinds={},
        layer_use=(1.0,) * LAYERS,
        kept_tokens=5.0,
    )


def test_figures_are_the_means_over_their_questions():
    found = figures(
        outcomes(
            [1, 1, 0, 0],
            kl=[0.0, 0.2, 0.4, 1.0],
            labelled=[1, 1, 1, 0],
            correct=[1, 0, 0, 1],
            truth=[1, 1, 0, 0],
        )
    )
    assert found.questions == 4
    assert found.accuracy.mean == pytest.approx(1 / 3)  # of the three that have an answer
    assert found.retention.mean == pytest.approx(1 / 2)
    assert found.agreement.mean == 0.5
    assert found.kl.mean == pytest.approx(0.4)


def test_without_answers_there_is_no_accuracy_and_without_right_ones_no_retention():
    unlabelled = figures(outcomes([1, 0], labelled=[0, 0]))
    assert (unlabelled.accuracy, unlabelled.retention) == (None, None)
    hopeless = figures(outcomes([1, 0], correct=[0, 0], truth=[0, 0]))
    assert hopeless.accuracy.mean == 0
    assert hopeless.retention is None


def test_kinds_are_apart_in_order_and_the_nameless_are_none():
    given = outcomes([1, 1, 0, 0, 1], kinds=["what", "read", "read", "", "what"])
    found = kinds(given)
    assert list(found) == ["read", "what"]
    assert found["read"] == figures(given.only(np.array([0, 1, 1, 0, 0], bool)))
    assert (found["what"].questions, found["what"].agreement.low) == (2, 1.0)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), min_size=1, max_size=30))
def test_kinds_weighed_by_their_questions_are_the_whole(questions):
    given = outcomes([agrees for agrees, _ in questions], kinds=[kind for _, kind in questions])
    parts = kinds(given).values()
    mean = np.average([part.kl.mean for part in parts], weights=[part.questions for part in parts])
    assert figures(given).kl.mean == pytest.approx(mean)


def test_a_row_names_what_was_run_and_how_often_each_layer_was():
    found = row(outcomes([1, 0, 1, 1]), "random+random", entry())
    assert (found.pruner, found.version, found.pruning.keep, found.pruning.layers) == (
        "random+random",
        "par-lite",
        "5",
        3,
    )
    assert (found.pruning.layer_policy, found.pruning.kept_layers) == ("static", (0, 1, 3))
    assert found.layer_use == (1.0, 0.75, 0.5, 0.25)
    assert found.kinds == {"read": found.figures}


def test_a_full_report_is_not_quick():
    part, whole = (outcomes(np.ones(n, bool)) for n in (FULL_REPORT - 1, FULL_REPORT))
    assert summarize(part, dataset="d").quick
    fidelity = summarize(whole, dataset="d")
    assert not fidelity.quick
    assert (fidelity.questions, fidelity.dataset) == (FULL_REPORT, "d")
    assert fidelity == fidelity_of(figures(whole), kinds(whole), "d")
    assert fidelity.kinds["read"].accuracy == fidelity.accuracy


# Comparisons


def test_a_clear_lead_is_not_chance_and_its_reverse_is_nothing_else():
    better, worse = outcomes(np.ones(40)), outcomes(np.arange(40) % 2 == 0)
    found = compare(better, worse, version="par-lite", pruner="random+random")
    assert (found.version, found.pruner, found.questions) == ("par-lite", "random+random", 40)
    assert found.difference.mean == 0.5
    assert found.difference.low > 0.3
    assert found.p == found.kl_p == 1 / RESAMPLES
    assert found.kl_difference.mean == -0.5
    back = compare(worse, better, version="par-lite", pruner="x")
    assert back.p == back.kl_p == 1.0
    assert back.difference.mean == -0.5


def test_a_tie_is_not_better():
    same = outcomes([1, 0, 1])
    found = compare(same, same, version="v", pruner="p")
    assert found.p == found.kl_p == 1.0
    assert (found.difference.low, found.difference.mean, found.difference.high) == (0, 0, 0)


def test_a_comparison_is_paired():
    """Hard questions are hard for both: the router is right where the other is, and on one more in ten."""
    hard = np.arange(200) % 2 == 0
    other = outcomes(hard)
    router = outcomes(hard | (np.arange(200) % 10 == 1))
    found = compare(router, other, version="v", pruner="p")
    assert found.difference.mean == pytest.approx(0.1)
    assert found.p == 1 / RESAMPLES
    spread = figures(router).agreement.high - figures(router).agreement.low
    assert found.difference.high - found.difference.low < 0.7 * spread


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_turned_round_a_comparison_turns_round(pairs):
    one, two = (outcomes([pair[side] for pair in pairs]) for side in (0, 1))
    ahead, behind = (compare(*sides, version="v", pruner="p") for sides in ((one, two), (two, one)))
    assert ahead.difference.mean == -behind.difference.mean
    assert ahead.difference.low == pytest.approx(-behind.difference.high)
    assert ahead.p + behind.p >= 1  # both hold the ties
    assert 1 / RESAMPLES <= ahead.p <= 1
    assert ahead.p == ahead.kl_p  # here the divergence is 1 where the answers differ
    if ahead.difference.low > 0:
        assert ahead.p <= 0.025


def test_questions_about_one_image_are_resampled_together():
    """The lead is on 2 of 8 images alone: as 40 questions it looks sure, as 8 images it does not."""
    images = np.repeat([f"{n}.png" for n in range(8)], 5)
    router, other = np.ones(40, bool), ~np.isin(images, ["2.png", "5.png"])
    apart = compare(outcomes(router), outcomes(other), version="v", pruner="p")
    together = compare(outcomes(router, images=images), outcomes(other, images=images), version="v", pruner="p")
    assert together.difference.mean == apart.difference.mean == 0.25
    assert apart.p == 1 / RESAMPLES
    assert together.p == pytest.approx((6 / 8) ** 8, abs=0.03)  # no resampled image is one of the two
    assert together.difference.low < apart.difference.low
    assert together.difference.high > apart.difference.high


@pytest.mark.parametrize(
    "change",
    [
        {"kinds": ["read", "what", "read"]},
        {"images": ["a", "b", "c"]},
        {"labelled": [1, 0, 1]},
        {"truth": [1, 1, 0]},
    ],
)
def test_other_questions_are_not_compared(change):
    with pytest.raises(CalibrationError, match="different questions"):
        compare(outcomes([1, 0, 1]), outcomes([1, 0, 1], **change), version="v", pruner="p")
    with pytest.raises(CalibrationError, match="different questions"):
        compare(outcomes([1, 0, 1]), outcomes([1, 0]), version="v", pruner="p")


# Recommendations

SHARE = st.floats(0, 1)


@given(SHARE, SHARE)
def test_static_is_recommended_unless_it_is_worse_by_more_than_half_a_point(dynamic, static):
    found = recommend("par-lite", made_row(dynamic, "dynamic"), made_row(static, "static"))
    assert found.version == "par-lite"
    if static >= dynamic:
        assert found.layer_policy == "static"
    if dynamic - static > TOLERANCE + 1e-9:
        assert found.layer_policy == "dynamic"
    assert f"{100 * dynamic:.1f}%" in found.why
    assert f"{100 * static:.1f}%" in found.why


@given(SHARE, SHARE, SHARE)
def test_a_better_static_list_is_never_less_recommended(dynamic, one, two):
    first, second = (
        recommend("v", made_row(dynamic, "dynamic"), made_row(static, "static")).layer_policy
        for static in sorted((one, two))
    )
    assert (first, second) != ("static", "dynamic")


def test_exactly_half_a_point_is_not_too_much():
    assert recommend("v", made_row(0.865, "dynamic"), made_row(0.86, "static")).layer_policy == "static"
    assert recommend("v", made_row(0.866, "dynamic"), made_row(0.86, "static")).layer_policy == "dynamic"


def test_times_are_told_but_not_weighed():
    rows = made_row(0.9, "dynamic"), made_row(0.8, "static")
    without, with_times = recommend("v", *rows), recommend("v", *rows, dynamic_ttft=0.9, static_ttft=0.4)
    assert without.layer_policy == with_times.layer_policy == "dynamic"
    assert "40.0%" in with_times.why
    assert "90.0% of full's time" in with_times.why
    assert "time" not in without.why
    assert recommend("v", *rows, dynamic_ttft=0.9) == without


def test_one_policy_alone_is_said_to_be_alone():
    for policy in ("dynamic", "static"):
        sides = {"dynamic": None, "static": None, policy: made_row(0.75, policy)}
        found = recommend("v", sides["dynamic"], sides["static"])
        assert found.layer_policy == policy
        assert found.why == f"only {policy} was measured: it agrees with full on 75.0% of the questions."
    with pytest.raises(CalibrationError, match="nothing was measured"):
        recommend("v", None, None)
