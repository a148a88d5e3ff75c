"""What the page's tables show: rows of the report, chosen, ordered and judged."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import eq
from typing import NamedTuple

from allrounder.fidelity_report import ROUTER, Comparison, Cost, FidelityReport, Row
from allrounder.pruning import LayerPolicy

__all__ = [
    "SIGNIFICANT",
    "Compared",
    "Halves",
    "both_pruned",
    "compared",
    "cost_of",
    "halves",
    "kinds",
    "label",
    "layer_use",
    "ordered",
    "questions_asked",
    "router_rows",
    "verdict",
    "worst_classes",
]

SIGNIFICANT = 0.05  # below it a comparison counts as won


class Compared(NamedTuple):
    """A comparison and, in words, what it shows by agreement and by KL."""

    row: Comparison
    verdicts: tuple[str, str]


class Halves(NamedTuple):
    """A budget: its rows with both sides pruned, with tokens alone and with layers alone, each under its name."""

    version: str
    rows: list[tuple[str, Row]]


def ordered(report: FidelityReport, rows: Iterable[Row]) -> list[Row]:
    """Returns rows from the largest budget to the smallest; the router before others."""
    return sorted(
        rows,
        key=lambda row: (
            -report.budget(row).tokens * row.pruning.layers,
            row.version,
            row.pruner != ROUTER,
            row.pruner,
            row.pruning.layer_policy != "dynamic",
        ),
    )


def both_pruned(report: FidelityReport, row: Row) -> bool:
    """Whether ``row`` drops tokens and layers."""
    return report.budget(row).tokens < report.image_tokens and row.pruning.layers < report.layers


def router_rows(report: FidelityReport) -> list[Row]:
    """Returns the router's rows that drop tokens and layers, in order."""
    return [row for row in ordered(report, report.rows) if row.pruner == ROUTER and both_pruned(report, row)]


def halves(report: FidelityReport) -> list[Halves]:
    """Returns, per version, the rows that prune one side alone beside those that prune both; at the end the others.

    A row with all layers belongs to the versions with as many tokens, a row with all tokens to those with as many
    layers; so one row can belong to several versions.
    """
    rows = ordered(report, report.rows)
    tokens_alone = [
        row for row in rows if report.budget(row).tokens < report.image_tokens and row.pruning.layers == report.layers
    ]
    layers_alone = [
        row for row in rows if report.budget(row).tokens == report.image_tokens and row.pruning.layers < report.layers
    ]
    alone = [("tokens alone", row) for row in tokens_alone] + [("layers alone", row) for row in layers_alone]
    found = []
    for version, group in groupby((row for row in rows if both_pruned(report, row)), key=lambda row: row.version):
        both = list(group)
        own = report.budget(both[0])
        mine = [pair for pair in alone if any(map(eq, report.budget(pair[1]), own))]
        shown = {row.pruner for _, row in mine}
        if mine:
            named = f"{version}: {own.tokens} tokens, {own.layers} layers"
            found.append(Halves(named, [("both", row) for row in both if row.pruner in shown] + mine))
    placed = [row for group in found for _, row in group.rows]
    others = [pair for pair in alone if pair[1] not in placed]
    return [*found, *([Halves("Budgets of no version above", others)] if others else [])]


def cost_of(report: FidelityReport, version: str, layer_policy: LayerPolicy) -> Cost | None:
    """Returns what a version under a policy costs, where the report knows."""
    return next((cost for cost in report.costs if (cost.version, cost.layer_policy) == (version, layer_policy)), None)


def kinds(report: FidelityReport) -> list[str]:
    """Returns the classes of question, in alphabetical order."""
    return sorted(set(report.full_kinds).union(*(row.kinds for row in report.rows)))


def worst_classes(report: FidelityReport) -> str:
    """Says which class of question each version hurts most, by agreement; nothing where there is but one class."""
    found: dict[str, list[str]] = {}
    for row in router_rows(report):
        if len(row.kinds) > 1:
            worst = min(sorted(row.kinds), key=lambda kind: row.kinds[kind].agreement.mean)
            kept = f"{row.kinds[worst].agreement.mean:.1%} at {row.version} {row.pruning.layer_policy}"
            found.setdefault(worst, []).append(kept)
    return "; ".join(f"{kind} ({', '.join(kept)})" for kind, kept in found.items())


def verdict(gain: float, best: float, p: float) -> str:
    """Returns in words what a comparison shows.

    Args:
        gain: How much better the router is; negative where it is worse.
        best: The most favourable end of the gain's interval. Below zero the router has lost; 1 - p would not say so,
            because p counts the resamples in which both are equally good.
        p: The share of resamples in which the router is not better.
    """
    if gain > 0 and p < SIGNIFICANT:
        return "router wins"
    return "ROUTER LOSES" if best < 0 else "NO WIN SHOWN"


def _verdicts(row: Comparison) -> tuple[str, str]:
    gain, less = row.difference, row.kl_difference
    return verdict(gain.mean, gain.high, row.p), verdict(-less.mean, -less.low, row.kl_p)


def compared(report: FidelityReport) -> list[Compared]:
    """Returns the comparisons in the order of the rows, each with what it shows by agreement and by KL."""
    place = {row.version: index for index, row in enumerate(ordered(report, report.rows))}
    rows = sorted(report.comparisons, key=lambda each: (place.get(each.version, len(place)), each.version, each.pruner))
    return [Compared(row, _verdicts(row)) for row in rows]


def layer_use(report: FidelityReport) -> list[Row]:
    """Returns the router's rows that drop layers and say how often each is run: versions first, layers alone last."""
    rows = [
        row
        for row in ordered(report, report.rows)
        if row.pruner == ROUTER and row.pruning.layers < report.layers and row.layer_use
    ]
    return sorted(rows, key=lambda row: report.budget(row).tokens == report.image_tokens)


def questions_asked(report: FidelityReport) -> tuple[list[int], list[int]]:
    """Returns how many questions the router's curves rest on, and how many those of the others."""
    asked: dict[bool, set[int]] = {True: set(), False: set()}
    for row in report.rows:
        if both_pruned(report, row):
            asked[row.pruner == ROUTER].add(row.figures.questions)
    return sorted(asked[True]), sorted(asked[False])


def label(report: FidelityReport, row: Row) -> str:
    """Returns what a row's pruner is called: with its policy where the report has it under several."""
    policies = {
        other.pruning.layer_policy for other in report.rows if other.pruner == row.pruner and both_pruned(report, other)
    }
    return f"{row.pruner}, {row.pruning.layer_policy}" if len(policies) > 1 else row.pruner
