"""The card's rows, chosen and ordered for the page.

What it is: pure functions from a card to rows and names. What it knows: what makes a row part of the main table, of a
curve, or one half of a budget alone. What it does not know: HTML.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from typing import NamedTuple

from allrounder.card import ROUTER, Card, Cost, Row
from allrounder.manifest import LayerPolicy

__all__ = [
    "SLOTS",
    "Halves",
    "both_pruned",
    "budgets",
    "cost_of",
    "halves",
    "kinds",
    "label",
    "ordered",
    "pruners",
    "router_rows",
    "slots",
]

SLOTS = 10  # colours: one for the router, the others in turn


class Halves(NamedTuple):
    """A budget pruned on both sides, on its token side alone, and on its layer side alone."""

    version: str
    tokens: int
    layers: int
    both: tuple[Row, ...]
    tokens_alone: tuple[Row, ...]
    layers_alone: tuple[Row, ...]


def ordered(rows: Iterable[Row]) -> list[Row]:
    """Returns rows from the largest budget to the smallest; the router before others."""
    return sorted(
        rows,
        key=lambda row: (
            -row.tokens * row.layers,
            row.version,
            row.pruner != ROUTER,
            row.pruner,
            row.layer_policy != "routed",
        ),
    )


def both_pruned(card: Card, row: Row) -> bool:
    """Whether ``row`` drops tokens and layers."""
    return row.tokens < card.visual_tokens and row.layers < card.layers


def router_rows(card: Card) -> list[Row]:
    """Returns the router's rows that drop tokens and layers, in order."""
    return [row for row in ordered(card.rows) if row.pruner == ROUTER and both_pruned(card, row)]


def budgets(card: Card) -> dict[str, tuple[int, int]]:
    """Returns tokens and layers by version, of those that drop both, in order."""
    return {row.version: (row.tokens, row.layers) for row in ordered(card.rows) if both_pruned(card, row)}


def halves(card: Card) -> tuple[list[Halves], list[Row]]:
    """Returns, per version, the rows that prune one side alone; and such rows that belong to no version.

    A row with all layers belongs to the versions with as many tokens, a row with all tokens to those with as many
    layers; so one row can belong to several versions.
    """
    rows = ordered(card.rows)
    alone = [row for row in rows if (row.tokens == card.visual_tokens) != (row.layers == card.layers)]
    found = []
    for version, (tokens, layers) in budgets(card).items():
        tokens_alone = tuple(row for row in alone if row.layers == card.layers and row.tokens == tokens)
        layers_alone = tuple(row for row in alone if row.tokens == card.visual_tokens and row.layers == layers)
        if tokens_alone or layers_alone:
            shown = {row.pruner for row in (*tokens_alone, *layers_alone)}
            both = tuple(row for row in rows if row.version == version and row.pruner in shown)
            found.append(Halves(version, tokens, layers, both, tokens_alone, layers_alone))
    placed = {id(row) for group in found for row in (*group.tokens_alone, *group.layers_alone)}
    return found, [row for row in alone if id(row) not in placed]


def cost_of(card: Card, version: str, layer_policy: LayerPolicy) -> Cost | None:
    """Returns what a version under a policy costs, where the card knows."""
    for cost in card.costs:
        if (cost.version, cost.layer_policy) == (version, layer_policy):
            return cost
    return None


def kinds(card: Card) -> list[str]:
    """Returns the classes of question, in alphabetical order."""
    return sorted(set(card.full_kinds).union(*(row.kinds for row in card.rows)))


def pruners(card: Card) -> list[str]:
    """Returns every pruner that the card names, the router first, the others in alphabetical order."""
    names = {row.pruner for row in card.rows} | {comparison.pruner for comparison in card.comparisons}
    return [ROUTER, *sorted(names - {ROUTER})]


def slots(card: Card) -> dict[str, int]:
    """Returns the colour of each pruner: 0 for the router, 1 to 9 in turn for the others.

    Those that are drawn as curves come first; one that only ever prunes one side takes the colour of a curve that
    chooses tokens as it does, where there is one.
    """
    curved = {row.pruner for row in card.rows if both_pruned(card, row)}
    found = {ROUTER: 0}
    by_tokens: dict[str, int] = {}
    turn = cycle(range(1, SLOTS))
    for name in sorted(pruners(card)[1:], key=lambda each: (each not in curved, each)):
        tokens = name.partition("+")[0]
        found[name] = by_tokens[tokens] if name not in curved and tokens in by_tokens else next(turn)
        by_tokens.setdefault(tokens, found[name])
    return found


def label(card: Card, row: Row) -> str:
    """Returns what a row's pruner is called: with its policy where the card has it under several."""
    policies = {other.layer_policy for other in card.rows if other.pruner == row.pruner and both_pruned(card, other)}
    return f"{row.pruner}, {row.layer_policy}" if len(policies) > 1 else row.pruner
