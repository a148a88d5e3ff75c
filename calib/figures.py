"""Report figures: outcomes, question by question, as the records of a fidelity report and of a manifest.

Pure functions of `Outcomes`; no engines, no files.

Intervals, and what a comparison is sure of, are bootstrapped over images (`allrounder.calib.bootstrap`). A
comparison is paired: both sides of every question are resampled together, so that a hard question is hard for both.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from allrounder.calib.bootstrap import mean_estimate, paired_estimate, ratio_estimate
from allrounder.calib.fidelity import FULL_REPORT, Outcomes
from allrounder.errors import CalibrationError
from allrounder.fidelity_report import ROUTER, Comparison, FidelityReport, Row
from allrounder.manifest import Entry, Fidelity, Figures, Model, Recommendation
from allrounder.pruning import LayerPolicy
from allrounder.versions import FULL

__all__ = [
    "TOLERANCE",
    "Advice",
    "Copied",
    "advise",
    "compare",
    "copy_figures",
    "fidelity_of",
    "figures",
    "kinds",
    "recommend",
    "row",
    "summarize",
]

Key = tuple[str, str, str, int, str]
TOLERANCE = 0.005  # of agreement: so much may static layers lose against dynamic ones and still be recommended


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
        accuracy = mean_estimate(right, known.images)
        retention = ratio_estimate(right, known.reference_correct.astype(np.float64), known.images)
    return Figures(
        questions=len(outcomes.kl),
        accuracy=accuracy,
        retention=retention,
        agreement=mean_estimate(outcomes.agrees.astype(np.float64), outcomes.images),
        kl=mean_estimate(outcomes.kl, outcomes.images),
    )


def kinds(outcomes: Outcomes) -> dict[str, Figures]:
    """Returns figures per class of question, in alphabetical order; questions without a class are in none."""
    names = np.array(outcomes.kinds, dtype=np.str_)
    return {name: figures(outcomes.only(names == name)) for name in sorted(set(outcomes.kinds)) if name}


def row(outcomes: Outcomes, pruner: str, entry: Entry) -> Row:
    """Returns the report's row of a pruner whose scores were fed to ``entry``."""
    return Row(
        pruner=pruner,
        pruning=entry.pruning,
        figures=figures(outcomes),
        kinds=kinds(outcomes),
        layer_use=tuple(outcomes.layer_use.mean(axis=0).tolist()),
        kept_tokens=float(outcomes.kept_tokens.mean()),
    )


def fidelity_of(whole: Figures, by_kind: dict[str, Figures], dataset: str) -> Fidelity:
    """Returns a manifest's record of figures; fewer than `FULL_REPORT` questions make it ``quick``."""
    return Fidelity(
        retention=whole.retention,
        agreement=whole.agreement,
        kl=whole.kl,
        questions=whole.questions,
        dataset=dataset,
        quick=whole.questions < FULL_REPORT,
        accuracy=whole.accuracy,
        kinds=by_kind,
    )


def summarize(outcomes: Outcomes, *, dataset: str) -> Fidelity:
    """Returns the manifest's record of ``outcomes``."""
    return fidelity_of(figures(outcomes), kinds(outcomes), dataset)


class Copied(NamedTuple):
    """What a report says of a bundle's entries: figures by `Entry.key`, and by label why the others have none."""

    figures: dict[tuple[str, str, str, int, str], Fidelity]
    refused: dict[str, tuple[str, ...]]
    recommendations: tuple[Recommendation, ...]  # of the versions all of whose entries here have figures


def copy_figures(report: FidelityReport, entries: Sequence[Entry], model: Model) -> Copied:
    """Returns what ``report`` says of ``entries`` of a bundle of ``model``."""
    figures: dict[tuple[str, str, str, int, str], Fidelity] = {}
    refused: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        found = report.figures_of(entry, model)
        if found is None:
            refused[entry.label] = report.differences(entry, model)
        else:
            figures[entry.key] = fidelity_of(*found, report.dataset.name)
    strangers = {entry.version for entry in entries if entry.key not in figures}
    versions = {entry.version for entry in entries} - strangers
    return Copied(figures, refused, tuple(each for each in report.recommendations if each.version in versions))


def compare(router: Outcomes, other: Outcomes, *, version: str, pruner: str) -> Comparison:
    """Returns how much better the router did than ``other`` at the same budget, and how sure that is.

    The probabilities are shares of resamples in which the router is not better; a tie is not better.

    Raises:
        CalibrationError: They are not about the same questions.
    """
    _check_same(router, other, where=f"{version}, {pruner}")
    agreement = paired_estimate(_number(router.agrees) - _number(other.agrees), router.images)
    kl = paired_estimate(router.kl - other.kl, router.images)
    return Comparison(
        version=version,
        pruner=pruner,
        questions=len(router.kl),
        difference=agreement.difference,
        p=agreement.not_above,
        kl_difference=kl.difference,
        kl_p=kl.not_below,
        kept_tokens=float(router.kept_tokens.mean()),
        other_kept_tokens=float(other.kept_tokens.mean()),
    )


def recommend(
    version: str,
    dynamic: Row | None,
    static: Row | None,
    dynamic_ttft: float | None = None,
    static_ttft: float | None = None,
) -> Recommendation:
    """Returns which layer policy ``version`` should be built with.

    The rule: ``static``, unless its mean agreement is worse than that of ``dynamic`` by more than `TOLERANCE`. Static
    graphs are smaller, take batches and run in every backend, which half a point is worth; noise between the two does
    not enter, because where it hides the difference either choice is as good.

    Args:
        version: Its name.
        dynamic: The router's row with layers chosen per input, if it was measured.
        static: Its row with layers chosen once, by the ranking, if it was measured.
        dynamic_ttft: Median time to first token as a share of that of `full`; named, not weighed.
        static_ttft: The same of ``static``.

    Raises:
        CalibrationError: Neither was measured.
    """
    if dynamic is None or static is None:
        only = dynamic or static
        if only is None:
            raise CalibrationError("nothing was measured that could be recommended", where=version)
        agreement = _percent(only.figures.agreement.mean)
        why = f"only {only.pruning.layer_policy} was measured: it agrees with full on {agreement} of the questions"
        return Recommendation(version=version, layer_policy=only.pruning.layer_policy, why=f"{why}.")
    ours, theirs = static.figures.agreement.mean, dynamic.figures.agreement.mean
    chosen: LayerPolicy = "static" if _is_enough(ours, theirs) else "dynamic"
    facts = f"static agrees with full on {_percent(ours)} of the questions, dynamic on {_percent(theirs)}"
    if dynamic_ttft is not None and static_ttft is not None:
        times = f"{_percent(static_ttft)} and {_percent(dynamic_ttft)} of full's time"
        facts += f" (first token, where it was measured, in {times})"
    half = f"{100 * TOLERANCE:g} points"
    if chosen == "static":
        why = f"{facts}: not worse by more than {half}, and static graphs are smaller, take batches and run everywhere."
    else:
        why = f"{facts}: worse by more than {half}."
    return Recommendation(version=version, layer_policy=chosen, why=why)


class Advice(NamedTuple):
    """Recommendations, and in sentences, of which versions there is none and why."""

    recommendations: tuple[Recommendation, ...]
    not_compared: tuple[str, ...]


def advise(entries: Sequence[Entry], outcomes: Mapping[Key, Outcomes], place: Path) -> Advice:
    """Returns what ``outcomes`` say about the layer policies of ``entries``.

    Entries that differ in nothing but the policy are compared. Where a version is there in several backends, precisions
    or prune layers, each has its recommendation, which then names them. A version that keeps every layer has no policy
    to choose.

    Args:
        entries: All entries of a bundle, `full` among them, with their latency where they have one.
        outcomes: By `Entry.key`, on the same questions.
        place: The bundle, for what to do next.
    """
    groups: dict[tuple[str, str, str, int], dict[str, Entry]] = {}
    depth = max(entry.pruning.layers for entry in entries)
    for entry in entries:
        if entry.pruning.layers < depth:
            groups.setdefault(entry.key[:4], {})[entry.pruning.layer_policy] = entry
    versions = [version for version, *_ in groups]
    recommendations: list[Recommendation] = []
    missing: list[str] = []
    for group, policies in groups.items():
        if len(policies) < 2:
            missing.append(_missing(next(iter(policies.values())), place))
            continue
        found = _compared(policies, outcomes, entries)
        if versions.count(found.version) > 1:
            found = msgspec.structs.replace(found, why=f"{group[1]}, {group[2]}, K={group[3]}: {found.why}")
        recommendations.append(found)
    return Advice(tuple(recommendations), tuple(missing))


def _compared(
    policies: Mapping[str, Entry], outcomes: Mapping[Key, Outcomes], entries: Sequence[Entry]
) -> Recommendation:
    dynamic, static = policies["dynamic"], policies["static"]
    return recommend(
        dynamic.version,
        row(outcomes[dynamic.key], ROUTER, dynamic),
        row(outcomes[static.key], ROUTER, static),
        _share_of_full(dynamic, entries),
        _share_of_full(static, entries),
    )


def _share_of_full(entry: Entry, entries: Sequence[Entry]) -> float | None:
    """Returns the median time to first token over that of `full`; None where one of them was not timed."""
    for full in entries:
        same = (full.version, full.backend, full.precision) == (FULL, entry.backend, entry.precision)
        if same and full.latency and entry.latency:
            return entry.latency.ttft_ms.p50 / full.latency.ttft_ms.p50
    return None


def _missing(entry: Entry, place: Path) -> str:
    other = "static" if entry.pruning.layer_policy == "dynamic" else "dynamic"
    flags = {
        "--version": entry.version,
        "--layer-policy": other,
        "--backend": entry.backend,
        "--precision": entry.precision,
        "--prune-layer": entry.pruning.prune_layer,
        "--out": place,
    }
    command = shlex.join(["allrounder", "build", *(str(word) for pair in flags.items() for word in pair)])
    return (
        f"{entry.version}: only {entry.pruning.layer_policy} is in this bundle; to compare, build {other} as well, "
        f"with the same --model, --router and --calib, and calibrate again: {command}"
    )


def _is_enough(static: float, dynamic: float) -> bool:
    """Whether static layers agree nearly as often as dynamic ones; exact at the limit but for rounding."""
    return dynamic - static <= TOLERANCE + 1e-12


def _check_same(router: Outcomes, other: Outcomes, where: str) -> None:
    same = (
        router.kinds == other.kinds
        and router.images == other.images
        and np.array_equal(router.labelled, other.labelled)
        and np.array_equal(router.reference_correct, other.reference_correct)
        and np.array_equal(router.image_tokens, other.image_tokens)
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
