"""How often each layer is run: one line per version, one cell per layer.

What it is: a section as markup. What it knows: `Row.layer_use`. What it does not know: which layers do what.
"""

from __future__ import annotations

from allrounder.card import ROUTER, Card, Row
from allrounder.commands.page.markup import Markup, element, join, table
from allrounder.commands.page.rows import ordered

__all__ = ["layer_use"]


def layer_use(card: Card) -> Markup:
    """Returns the share of the questions in which the router ran each layer, per version."""
    rows = [row for row in ordered(card.rows) if row.pruner == ROUTER and row.layers < card.layers and row.layer_use]
    rows.sort(key=lambda row: row.tokens == card.visual_tokens)  # versions first, layers alone after them
    title = element("h2", "Which layers are run")
    if not rows:
        return element("section", title, element("p", "The card does not say how often each layer is run."))
    header = [
        element("th", "Version", scope="col"),
        *(
            element("th", layer, scope="col", class_="below" if layer < card.gather_layer else None)
            for layer in range(card.layers)
        ),
    ]
    first = (
        f" The first {card.gather_layer} (underlined) always run: visual tokens are dropped after them."
        if card.gather_layer
        else ""
    )
    caption = (
        f"In how many of 100 questions the router runs each decoder layer; the fuller the cell, the more often.{first}"
    )
    return element("section", title, table(caption, header, [_strip(row) for row in rows], class_="heat"))


def _strip(row: Row) -> Markup:
    name = join((row.version, " ", element("small", row.layer_policy)))
    return element("tr", element("th", name, scope="row"), *(_cell(value) for value in row.layer_use))


def _cell(value: float) -> Markup:
    return element("td", f"{100 * value:.0f}", style=f"--u:{value:.3f}")
