"""Card figures: outcomes, question by question, as the records of a fidelity card and of a manifest.

What it is: pure functions from `Outcomes` to figures, rows, comparisons and recommendations.
What it knows: which figures there are and how sure they are. What it does not know: engines, files, and how outcomes
come about.

Intervals, and what a comparison is sure of, are bootstrapped over pictures (`allrounder.calib.bootstrap`). A
comparison is paired: both sides of every question are resampled together, so that a hard question is hard for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from allrounder.calib.bootstrap import mean_estimate, paired_estimate, ratio_estimate
from allrounder.calib.fidelity import FULL_CARD, Outcomes
from allrounder.card import Card, Comparison, Row
from allrounder.errors import CalibrationError
from allrounder.manifest import Entry, Fidelity, Figures, LayerPolicy, Model, Recommendation

__all__ = [
    "TOLERANCE",
    "Copied",
    "compare",
    "copy_figures",
    "fidelity_of",
    "figures",
    "kinds",
    "recommend",
    "row",
    "summarize",
]

TOLERANCE = 0.005  # of agreement: so much may a frozen plan lose against a routed one and still be recommended


def figures(outcomes: Outcomes) -> Figures:
    """Returns means with bootstrap 95 % intervals.

    Accuracy and retention are over the questions that have an answer: accuracy is None where none has, retention also
    where `full` has none right.

    Raises:
        CalibrationError: No question was measured, or a figure is not finite.
    """
    accuracy = retention = None
    if outcomes.labelled.any():
        known = outcomes.only(outcomes.labelled)
        right = known.correct.astype(np.float64)
        accuracy = mean_estimate(right, known.pictures)
        retention = ratio_estimate(right, known.reference_correct.astype(np.float64), known.pictures)
    return Figures(
        questions=len(outcomes.kl),
        accuracy=accuracy,
        retention=retention,
        agreement=mean_estimate(outcomes.agrees.astype(np.float64), outcomes.pictures),
        kl=mean_estimate(outcomes.kl, outcomes.pictures),
    )


def kinds(outcomes: Outcomes) -> dict[str, Figures]:
    """Returns figures per class of question, in alphabetical order; questions without a class are in none."""
    names = np.array(outcomes.kinds, dtype=np.str_)
    return {name: figures(outcomes.only(names == name)) for name in sorted(set(outcomes.kinds)) if name}


def row(outcomes: Outcomes, pruner: str, entry: Entry) -> Row:
    """Returns the card's row of a pruner whose scores were fed to ``entry``."""
    return Row(
        pruner=pruner,
        version=entry.version,
        tokens=entry.tokens,
        layers=entry.layers,
        layer_policy=entry.layer_policy,
        layer_plan=entry.layer_plan,
        figures=figures(outcomes),
        kinds=kinds(outcomes),
        layer_use=tuple(outcomes.layer_use.mean(axis=0).tolist()),
    )


def fidelity_of(whole: Figures, by_kind: dict[str, Figures], dataset: str) -> Fidelity:
    """Returns a manifest's record of figures; fewer than `FULL_CARD` questions make it ``quick``."""
    return Fidelity(
        retention=whole.retention,
        agreement=whole.agreement,
        kl=whole.kl,
        questions=whole.questions,
        dataset=dataset,
        quick=whole.questions < FULL_CARD,
        accuracy=whole.accuracy,
        kinds=by_kind,
    )


def summarize(outcomes: Outcomes, *, dataset: str) -> Fidelity:
    """Returns the manifest's record of ``outcomes``."""
    return fidelity_of(figures(outcomes), kinds(outcomes), dataset)


class Copied(NamedTuple):
    """What a card says of a bundle's entries: figures by `Entry.key`, and by label why the others have none."""

    figures: dict[tuple[str, str, str, int, str], Fidelity]
    refused: dict[str, tuple[str, ...]]
    recommendations: tuple[Recommendation, ...]  # of the versions all of whose entries here have figures


def copy_figures(card: Card, entries: Sequence[Entry], model: Model) -> Copied:
    """Returns what ``card`` says of ``entries`` of a bundle of ``model``."""
    figures: dict[tuple[str, str, str, int, str], Fidelity] = {}
    refused: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        found = card.figures_of(entry, model)
        if found is None:
            refused[entry.label] = card.differences(entry, model)
        else:
            figures[entry.key] = fidelity_of(*found, card.dataset.name)
    strangers = {entry.version for entry in entries if entry.key not in figures}
    versions = {entry.version for entry in entries} - strangers
    return Copied(figures, refused, tuple(each for each in card.recommendations if each.version in versions))


def compare(router: Outcomes, other: Outcomes, *, version: str, pruner: str) -> Comparison:
    """Returns how much better the router did than ``other`` at the same budget, and how sure that is.

    The probabilities are shares of resamples in which the router is not better; a tie is not better.

    Args:
        router: Outcomes of the trained router.
        other: Those of another pruner on the same questions.
        version: The budget's name.
        pruner: The other pruner's name.

    Raises:
        CalibrationError: They are not about the same questions.
    """
    _check_same(router, other, where=f"{version}, {pruner}")
    agreement = paired_estimate(_number(router.agrees) - _number(other.agrees), router.pictures)
    kl = paired_estimate(router.kl - other.kl, router.pictures)
    return Comparison(
        version=version,
        pruner=pruner,
        questions=len(router.kl),
        difference=agreement.difference,
        p=agreement.not_above,
        kl_difference=kl.difference,
        kl_p=kl.not_below,
    )


def recommend(
    version: str,
    routed: Row | None,
    frozen: Row | None,
    routed_ttft: float | None = None,
    frozen_ttft: float | None = None,
) -> Recommendation:
    """Returns which layer policy ``version`` should be built with.

    The rule: ``frozen``, unless its mean agreement is worse than that of ``routed`` by more than `TOLERANCE`. Frozen
    graphs are smaller, take batches and run in every backend, which half a point is worth; noise between the two does
    not enter, because where it hides the difference either choice is as good.

    Args:
        version: Its name.
        routed: The router's row with layers chosen per input, if it was measured.
        frozen: Its row with layers frozen by the vote, if it was measured.
        routed_ttft: Median time to first token as a share of that of `full`; told, not weighed.
        frozen_ttft: The same of ``frozen``.

    Raises:
        CalibrationError: Neither was measured.
    """
    if routed is None or frozen is None:
        only = routed or frozen
        if only is None:
            raise CalibrationError("nothing was measured that could be recommended", where=version)
        agreement = _percent(only.figures.agreement.mean)
        why = f"only {only.layer_policy} was measured: it agrees with full on {agreement} of the questions"
        return Recommendation(version=version, layer_policy=only.layer_policy, why=f"{why}.")
    ours, theirs = frozen.figures.agreement.mean, routed.figures.agreement.mean
    chosen: LayerPolicy = "frozen" if _is_enough(ours, theirs) else "routed"
    facts = f"frozen agrees with full on {_percent(ours)} of the questions, routed on {_percent(theirs)}"
    if routed_ttft is not None and frozen_ttft is not None:
        times = f"{_percent(frozen_ttft)} and {_percent(routed_ttft)} of full's time"
        facts += f" (first token, where it was measured, in {times})"
    half = f"{100 * TOLERANCE:g} points"
    if chosen == "frozen":
        why = f"{facts}: not worse by more than {half}, and frozen graphs are smaller, take batches and run everywhere."
    else:
        why = f"{facts}: worse by more than {half}."
    return Recommendation(version=version, layer_policy=chosen, why=why)


def _is_enough(frozen: float, routed: float) -> bool:
    """Whether a frozen plan's agreement is near enough to a routed one's; exact at the limit but for rounding."""
    return routed - frozen <= TOLERANCE + 1e-12


def _check_same(router: Outcomes, other: Outcomes, where: str) -> None:
    same = (
        router.kinds == other.kinds
        and router.pictures == other.pictures
        and np.array_equal(router.labelled, other.labelled)
        and np.array_equal(router.reference_correct, other.reference_correct)
    )
    if not same:
        raise CalibrationError(
            "outcomes on different questions cannot be compared",
            where=where,
            got=f"{len(router.kl)} and {len(other.kl)} questions",
            wanted="the same ones, in the same order",
        )


def _number(flags: NDArray[np.bool_]) -> NDArray[np.float64]:
    return flags.astype(np.float64)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
