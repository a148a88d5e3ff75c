"""From outcomes to the report, and the report as a table of text.

Comparisons are on the grid's questions: the router's outcomes are cut to the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from allrounder import __version__
from allrounder.calib import figures as summary
from allrounder.calib.fidelity import Outcomes
from allrounder.calib.report.data import Questions
from allrounder.calib.report.tiles import by_tiles, tables
from allrounder.calib.report.work_list import Subject, WorkList
from allrounder.calib.tables import table
from allrounder.errors import CalibrationError
from allrounder.fidelity_report import (
    REPORT_SCHEMA,
    ROUTER,
    Comparison,
    Cost,
    Dataset,
    FidelityReport,
    Figures,
    Recommendation,
    Row,
    TilesRow,
)
from allrounder.manifest import Entry, Estimate, Model
from allrounder.versions import FULL, VERSIONS

__all__ = ["Measured", "make_report", "render"]

COMPARED = "difference on the same questions; p: share of resamples in which the router is not better"


class Measured(NamedTuple):
    """What was measured; ``outcomes`` are those of ``work.subjects``, in their order."""

    model: Model
    entries: tuple[Entry, ...]
    work: WorkList
    outcomes: tuple[Outcomes, ...]
    costs: tuple[Cost, ...]


def make_report(measured: Measured, questions: Questions, prune_layer: int) -> FidelityReport:
    """Returns the report of what was measured.

    Raises:
        CalibrationError: The engines are not of a router.
    """
    model, full = measured.model, measured.outcomes[0]
    if model.router is None:
        raise CalibrationError("a report is of a router, and these engines have none")
    rows = _rows(measured)
    entry = measured.entries[0]
    return FidelityReport(
        schema=REPORT_SCHEMA,
        producer=f"allrounder {__version__}",
        model=model.name,
        model_digest=model.digest,
        router=model.router,
        backend=entry.backend,
        precision=entry.precision,
        prune_layer=prune_layer,
        image_tokens=round(float(full.image_tokens.mean())),
        layers=model.layers,
        dataset=Dataset(name=questions.name, about=questions.about, questions=len(questions.prompts)),
        full=summary.figures(full),
        full_kinds=summary.kinds(full),
        rows=rows,
        comparisons=_comparisons(measured),
        costs=measured.costs,
        recommendations=_recommendations(rows, measured.costs),
        by_tiles=by_tiles(measured.work, measured.outcomes),
    )


def _rows(measured: Measured) -> tuple[Row, ...]:
    entries = {(entry.version, entry.pruning.layer_policy): entry for entry in measured.entries}
    return tuple(
        summary.row(outcomes, subject.pruner, entries[subject.key])
        for subject, outcomes in _subjects(measured)
        if subject.version != FULL
    )


def _comparisons(measured: Measured) -> tuple[Comparison, ...]:
    """Returns the router against every other pruner, through the same engine, on the grid's questions."""
    grid = np.arange(measured.work.questions) < measured.work.grid
    subjects = _subjects(measured)
    router = {subject.key: outcomes.only(grid) for subject, outcomes in subjects if subject.pruner == ROUTER}
    return tuple(
        summary.compare(router[subject.key], outcomes, version=subject.version, pruner=subject.pruner)
        for subject, outcomes in subjects
        if subject.pruner != ROUTER
    )


def _subjects(measured: Measured) -> list[tuple[Subject, Outcomes]]:
    return list(zip(measured.work.subjects, measured.outcomes, strict=True))


def _recommendations(rows: Sequence[Row], costs: Sequence[Cost]) -> tuple[Recommendation, ...]:
    known = {(row.version, row.pruning.layer_policy): row for row in rows if row.pruner == ROUTER}
    ttft = {(cost.version, cost.layer_policy): cost.ttft for cost in costs}
    found = []
    for name in VERSIONS:
        dynamic, static = known.get((name, "dynamic")), known.get((name, "static"))
        if dynamic or static:
            times = (ttft.get((name, "dynamic")), ttft.get((name, "static")))
            found.append(summary.recommend(name, dynamic, static, *times))
    return tuple(found)


def render(report: FidelityReport) -> str:
    """Returns the report as people read it on a terminal: rows, then comparisons, then recommendations."""
    header = [
        "pruner",
        "version",
        "tokens",
        "L",
        "layers",
        "n",
        "accuracy",
        "retention",
        "agreement",
        "kl",
        "FLOPs",
        "TTFT",
    ]
    full = report.full
    lines = [["-", FULL, str(report.image_tokens), str(report.layers), "static", *_figures(full), "100%", "100%"]]
    for row in report.rows:
        head = [row.pruner, row.version, f"{row.kept_tokens:.4g}", str(row.pruning.layers), row.pruning.layer_policy]
        lines.append([*head, *_figures(row.figures), *map(_share, report.cost(row))])
    parts = [
        f"{report.model}: {report.dataset.questions} questions, {report.dataset.about}",
        "mean [95 % interval] against full on the same questions; FLOPs and TTFT as shares of full; kl in nats",
        "tokens: how many of an image were kept, counted, in mean",
        table(header, lines),
    ]
    if report.comparisons:
        header = ["the router against", "version", "n", "tokens", "its tokens", "agreement", "p", "kl", "p of kl"]
        compared = [_compared(each) for each in report.comparisons]
        parts += ["", COMPARED, table(header, compared)]
    if report.by_tiles:
        parts += ["", *_by_tiles(report)]
    parts += ["", *(f"{each.version}: {each.layer_policy}. {each.why}" for each in report.recommendations)]
    return "\n".join(parts)


def _figures(figures: Figures) -> list[str]:
    shares = [_percent(each) for each in (figures.accuracy, figures.retention, figures.agreement)]
    kl = figures.kl
    return [str(figures.questions), *shares, f"{kl.mean:.3f} [{kl.low:.3f}, {kl.high:.3f}]"]


def _percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{100 * estimate.mean:.1f}% [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"


def _compared(found: Comparison) -> list[str]:
    pairs = ((found.difference, found.p), (found.kl_difference, found.kl_p))
    shown = [(f"{each.mean:+.3f} [{each.low:+.3f}, {each.high:+.3f}]", f"{chance:.4f}") for each, chance in pairs]
    kept = (f"{tokens:.4g}" for tokens in (found.kept_tokens, found.other_kept_tokens))
    return [found.pruner, found.version, str(found.questions), *kept, *shown[0], *shown[1]]


def _by_tiles(report: FidelityReport) -> list[str]:
    """Returns agreement, retention and kept tokens by the number of tiles of the question's image."""
    groups = [f"{each.tiles} tiles, n {each.questions}, N {each.image_tokens:.4g}" for each in report.by_tiles]
    rows = [
        [each.version, line.name, line.layer_policy, *(map(_tiles_cell, line.cells))]
        for each in tables(report)
        for line in each.lines
    ]
    told = "by tiles of the question's image: agreement [95 % interval], retention, image tokens kept, in mean"
    return [told, table(["version", "pruner", "layers", *groups], rows)]


def _tiles_cell(row: TilesRow) -> str:
    kept = row.figures.retention
    return f"{_percent(row.figures.agreement)}, {_share(kept and kept.mean)}, {row.kept_tokens:.4g}"
