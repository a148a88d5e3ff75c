"""Fidelity by the number of tiles of a question's image: counted from outcomes, and what a table of it shows.

A model of tiles reads a small image in few image tokens and a large one in many, so a version's one figure is a mean
over different budgets. All rows are on the same questions: those that every pruner was asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from allrounder.calib import figures as summary
from allrounder.calib.fidelity import Outcomes
from allrounder.calib.report.work_list import Subject, WorkList
from allrounder.fidelity_report import DOWNSCALE, ROUTER, FidelityReport, Row, Tiles, TilesRow
from allrounder.pruning import LayerPolicy
from allrounder.versions import FULL, VERSIONS

__all__ = ["Line", "VersionTiles", "best_other", "by_tiles", "tables"]


class Line(NamedTuple):
    """A pruner at a version, a cell for each of the report's numbers of tiles; all are of the same questions."""

    name: str
    pruner: str
    layer_policy: LayerPolicy
    cells: tuple[TilesRow, ...]


class VersionTiles(NamedTuple):
    """One version by number of tiles."""

    version: str
    lines: tuple[Line, ...]


def by_tiles(work: WorkList, outcomes: Sequence[Outcomes]) -> tuple[Tiles, ...]:
    """Returns figures of the versions, of `full` and of few tokens with all layers, by number of tiles."""
    asked = np.arange(work.questions) < (work.grid or work.questions)
    full = outcomes[0].only(asked)
    numbers = np.unique(full.tiles).tolist()
    if len(numbers) < 2:
        return ()
    few = {subject.version for subject in work.subjects if subject.pruner != ROUTER}
    chosen = [
        (subject, found.only(asked[: subject.questions]))
        for subject, found in zip(work.subjects, outcomes, strict=True)
        if subject.version in VERSIONS or subject.version in few
    ]
    return tuple(_tiles(int(number), full, chosen) for number in numbers)


def _tiles(number: int, full: Outcomes, chosen: Sequence[tuple[Subject, Outcomes]]) -> Tiles:
    mine = full.tiles == number
    return Tiles(
        tiles=number,
        questions=int(mine.sum()),
        image_tokens=float(full.image_tokens[mine].mean()),
        rows=tuple(_row(subject, found.only(mine)) for subject, found in chosen),
    )


def _row(subject: Subject, outcomes: Outcomes) -> TilesRow:
    return TilesRow(
        pruner=subject.pruner,
        version=subject.version,
        layer_policy=subject.layer_policy,
        kept_tokens=float(outcomes.kept_tokens.mean()),
        figures=summary.figures(outcomes),
    )


def best_other(report: FidelityReport, version: str) -> Row | None:
    """Returns the row of ``version`` that agrees most, over all its questions, of those that owe the router nothing.

    Downscaling is not among them: it is always shown.
    """
    rows = [
        row for row in report.rows if row.version == version and not {ROUTER, DOWNSCALE} & set(row.pruner.split("+"))
    ]
    return max(rows, key=lambda row: (row.figures.agreement.mean, row.pruner), default=None)


def tables(report: FidelityReport) -> tuple[VersionTiles, ...]:
    """Returns what to show: of each version the router, downscaling and the best other pruner."""
    found: list[VersionTiles] = []
    every = [row for group in report.by_tiles[:1] for row in group.rows]
    for version in dict.fromkeys(row.version for row in every):
        best = best_other(report, version)
        shown = [
            row
            for row in every
            if row.version == version and (_rank(row.pruner) < 2 or (best and row.pruner == best.pruner))
        ]
        lines = [_line(report, row) for row in sorted(shown, key=lambda row: _rank(row.pruner))]
        found.append(VersionTiles(version, tuple(lines)))
    return tuple(found)


def _rank(pruner: str) -> int:
    return 0 if pruner == ROUTER else 1 if DOWNSCALE in pruner.split("+") else 2


def _line(report: FidelityReport, first: TilesRow) -> Line:
    def key(row: TilesRow) -> tuple[str, str, str]:
        return row.version, row.pruner, row.layer_policy

    found = [row for group in report.by_tiles for row in group.rows if key(row) == key(first)]
    best = "" if _rank(first.pruner) < 2 else " (best other)"
    name = FULL if first.version == FULL else f"{first.pruner}{best}"
    return Line(name, first.pruner, first.layer_policy, tuple(found))
