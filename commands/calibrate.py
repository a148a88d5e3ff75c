"""``allrounder calibrate``: a bundle's figures measured again, on prompts of one's own and on this machine."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from allrounder.calib import fidelity, latency
from allrounder.calib.figures import advise, summarize
from allrounder.calib.tables import table
from allrounder.commands.runnable import build_command, runnable
from allrounder.engines.bundle.publish import Staging, publish
from allrounder.engines.bundle.reader import OpenBundle, open_bundle
from allrounder.engines.options import EngineOptions
from allrounder.errors import BundleError, CalibrationError
from allrounder.manifest import Entry, Estimate, Latency, Recommendation
from allrounder.progress import Progress, TerminalProgress
from allrounder.prompts import PromptSet, read_prompts
from allrounder.runtime.engine import open_engines
from allrounder.runtime.memory import fits, needed_bytes
from allrounder.versions import FULL

__all__ = ["CalibrateReport", "add_arguments", "calibrate_bundle", "run"]

# Mapped once for all: nothing is timed with it, and several versions need the memory of about one.
_MAPPED = EngineOptions(weights="shared")

Key = tuple[str, str, str, int, str]


class CalibrateReport(msgspec.Struct, frozen=True):
    """The last line of stdout: all entries with their new figures, and which layer policies are recommended.

    ``not_compared`` says of which versions only one policy was there, and what to build to compare.
    """

    bundle: str
    entries: tuple[Entry, ...]
    recommendations: tuple[Recommendation, ...]
    not_compared: tuple[str, ...]
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``calibrate`` to ``parser``."""
    parser.description = (
        "Measure fidelity and latency of all engines of a bundle again, on your own prompts, and say which layer "
        "policy each version should be built with."
    )
    parser.add_argument("bundle", type=Path, help="a bundle directory, with the version full in it")
    parser.add_argument("--calib", type=Path, required=True, metavar="FILE", help="JSONL of images and questions")


def run(arguments: argparse.Namespace) -> int:
    """Measures, publishes, prints a table and, as the last line of stdout, one JSON object."""
    report = calibrate_bundle(arguments.bundle, read_prompts(arguments.calib), TerminalProgress())
    print(render(report))
    print(msgspec.json.encode(report).decode())
    return 0


def calibrate_bundle(place: Path, prompts: PromptSet, progress: Progress) -> CalibrateReport:
    """Measures all entries that run here and publishes the figures; killed at any moment, the old ones stay.

    Raises:
        BundleError: There is no bundle, or a damaged one.
        EngineUnavailable: No entry runs here.
        CalibrationError: The bundle lacks `full`, in the precision of another entry, to compare with.
    """
    started = time.monotonic()
    if not place.is_dir():
        raise BundleError("there is no such bundle", where=place, remedy="give the directory `allrounder build` wrote")
    with Staging(place, progress=progress) as staging:
        bundle = open_bundle(staging.path, progress=progress)
        able = runnable(bundle.manifest.entries, _MAPPED)
        outcomes = _outcomes(bundle, able, prompts, progress)
        timed = _timed(bundle, able, progress)
        figures = {key: (summarize(outcomes[key], dataset=prompts.name), timed[key]) for key in outcomes}
        staging.set_figures(figures)
        advice = advise([entry for entry in staging.manifest.entries if entry.key in outcomes], outcomes, place)
        staging.set_recommendations(advice.recommendations)
        manifest = publish(staging).manifest
    seconds = round(time.monotonic() - started, 2)
    return CalibrateReport(str(place), manifest.entries, advice.recommendations, advice.not_compared, seconds)


def render(report: CalibrateReport) -> str:
    """Returns the new figures as people read them, each class of question on a line of its own."""
    rows = []
    for entry in report.entries:
        found = entry.fidelity
        if found:
            for kind, figures in (("all", found), *(found.kinds.items() if len(found.kinds) > 1 else ())):
                estimates = (figures.accuracy, figures.retention, figures.agreement, figures.kl)
                rows.append([entry.label, kind, str(figures.questions), *map(_estimate, estimates)])
    lines = [
        "mean [95 % interval], against full on the same prompts; kl in nats",
        table(["entry", "questions", "n", "accuracy", "retention", "agreement", "kl"], rows),
        *(f"{each.version}: {each.layer_policy} is recommended: {each.why}" for each in report.recommendations),
        *report.not_compared,
    ]
    return "\n".join(lines)


def _outcomes(
    bundle: OpenBundle, able: Sequence[Entry], prompts: PromptSet, progress: Progress
) -> dict[Key, fidelity.Outcomes]:
    """Returns what each of ``able`` did on all prompts, against `full` of its own backend and precision."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in able:
        groups.setdefault((entry.backend, entry.precision), []).append(entry)
    for entries in groups.values():
        _reference(entries, bundle)  # refuse before anything long begins
    outcomes: dict[Key, fidelity.Outcomes] = {}
    for entries in groups.values():
        reference = entries.index(_reference(entries, bundle))
        if not fits(bundle, entries, _MAPPED):
            raise CalibrationError(
                "these engines do not fit into memory side by side",
                where=f"{bundle.path}, {entries[0].precision}",
                got=f"about {needed_bytes(bundle, entries, _MAPPED) / 1e9:.1f} GB",
                remedy="calibrate on a machine with more memory",
            )
        engines = open_engines(bundle, entries, _MAPPED)
        contenders = [fidelity.Contender(engine) for engine in engines]
        found = fidelity.measure(engines[reference], contenders, prompts.prompts, progress)
        outcomes |= {entry.key: outcome for entry, outcome in zip(entries, found, strict=True)}
    return outcomes


def _reference(entries: Sequence[Entry], bundle: OpenBundle) -> Entry:
    for entry in entries:
        if entry.version == FULL:
            return entry
    precision, backend = entries[0].precision, entries[0].backend
    flags = ("--version", FULL, "--backend", backend, "--precision", precision)
    raise CalibrationError(
        f"there is no {FULL} to compare with",
        where=f"{bundle.path}, {backend}, {precision}",
        remedy=build_command(bundle, *flags),
    )


def _timed(bundle: OpenBundle, able: Sequence[Entry], progress: Progress) -> dict[Key, Latency | None]:
    timed: dict[Key, Latency | None] = {}
    for backend in sorted({entry.backend for entry in able}):
        peers = [entry for entry in able if entry.backend == backend]
        found = latency.measure(bundle, peers, progress=progress)
        timed |= {entry.key: figure for entry, figure in zip(peers, found, strict=True)}
    return timed


def _estimate(estimate: Estimate | None) -> str:
    return f"{estimate.mean:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]" if estimate else "-"
