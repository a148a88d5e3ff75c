"""The head of the page: what was measured on what, what is recommended, and the main table.

What it is: sections as markup. What it knows: the card. What it does not know: where it is written.
"""

from __future__ import annotations

from allrounder.card import Card, Cost, Recommendation, Row
from allrounder.commands.page.markup import Markup, element, join, table
from allrounder.commands.page.rows import cost_of, kinds, router_rows
from allrounder.commands.page.words import absent, kl, percent, share

__all__ = ["headline", "main_table", "recommended"]


def headline(card: Card, about: str) -> Markup:
    """Returns the title, the label that says whose figures these are, and what the words mean."""
    data = card.dataset
    facts = (
        ("Model", card.model),
        ("Questions", join((f"{data.questions:,} from ", element("bdi", data.name)))),
        ("The data set", element("bdi", data.about)),
        ("Run by", f"{card.backend}, {card.precision}"),
    )
    listed = join(join((element("dt", name), element("dd", value))) for name, value in facts)
    return element(
        "header",
        element("p", "Fidelity card", class_="kicker"),
        element("h1", element("bdi", card.model)),
        element("p", about, class_="label"),
        element("dl", listed, class_="facts"),
        element("p", _introduction(card), class_="lead"),
    )


def _introduction(card: Card) -> str:
    return (
        f"A picture reaches this model as {card.visual_tokens} visual tokens, which pass {card.layers} decoder layers. "
        "A pruned version keeps fewer of both, so that it has less to compute. A small trained network, the router, "
        "ranks tokens and layers, and what it ranks last is left out. This page says how much of the unpruned model, "
        "here called full, each version keeps; what that costs; and whether simpler ways of choosing do as well."
    )


def recommended(card: Card) -> Markup:
    """Returns which layer policy each version should be built with, and why."""
    if not card.recommendations:
        body = element("p", "The card recommends no policy for any version.")
    else:
        order = {row.version: place for place, row in enumerate(router_rows(card))}
        sorted_ = sorted(card.recommendations, key=lambda each: order.get(each.version, len(order)))
        body = element("div", *(_tile(card, each) for each in sorted_), class_="tiles")
    meaning = (
        "Routed: the layers that are run are chosen for each question. Frozen: one plan per version, settled in "
        "advance, and the other layers are not even stored."
    )
    return element("section", element("h2", "Recommended policy per version"), element("p", meaning), body)


def _tile(card: Card, advice: Recommendation) -> Markup:
    row = card.row(advice.version, advice.layer_policy)
    cost = cost_of(card, advice.version, advice.layer_policy)
    figures = None
    if row is not None:
        figures = element(
            "p",
            element("b", share(row.figures.agreement.mean)),
            " of answers as full",
            *(() if cost is None or cost.ttft is None else (", ", element("b", share(cost.ttft)), " of its time")),
            class_="glance",
        )
    return element(
        "article",
        element("h3", advice.version, " ", element("span", advice.layer_policy, class_="chip")),
        None if row is None else element("p", f"{row.tokens} tokens, {row.layers} layers", class_="quiet"),
        figures,
        element("p", advice.why),
    )


def main_table(card: Card) -> Markup:
    """Returns every version that prunes both, under each policy, with what it keeps and costs."""
    header = (
        "Version",
        "Tokens",
        "Layers",
        "Policy",
        "Accuracy",
        "Retention",
        "Agreement",
        "KL, nats",
        "FLOPs share",
        "TTFT share",
    )
    body = [_full_row(card), *(_version_row(card, row) for row in router_rows(card))]
    caption = (
        "What each version keeps of full, with 95% intervals, and what it costs as a share of full. "
        "Higher is better but for KL, where 0 is full."
    )
    return element("section", element("h2", "The versions"), table(caption, header, body), _worst_class(card))


def _full_row(card: Card) -> Markup:
    cells = (card.visual_tokens, card.layers, "unpruned", percent(card.full.accuracy))
    shares = (share(1.0), share(1.0), "0", share(1.0), share(1.0))
    return element(
        "tr", element("th", "full", scope="row"), *(element("td", cell) for cell in (*cells, *shares)), class_="full"
    )


def _version_row(card: Card, row: Row) -> Markup:
    advised = any((each.version, each.layer_policy) == (row.version, row.layer_policy) for each in card.recommendations)
    cost = cost_of(card, row.version, row.layer_policy)
    figures = row.figures
    policy = join((row.layer_policy, element("span", "recommended", class_="chip") if advised else None), " ")
    cells = (
        row.tokens,
        row.layers,
        policy,
        percent(figures.accuracy),
        percent(figures.retention),
        percent(figures.agreement),
        kl(figures.kl),
        *_shares(cost),
    )
    return element("tr", element("th", row.version, scope="row"), *(element("td", cell) for cell in cells))


def _shares(cost: Cost | None) -> tuple[object, object]:
    if cost is None:
        return absent("not counted"), absent("not timed")
    return share(cost.flops), absent("not timed") if cost.ttft is None else share(cost.ttft)


def _worst_class(card: Card) -> Markup | None:
    """Says which class of question each version hurts most, by agreement; None where there is but one class."""
    if len(kinds(card)) < 2:
        return None
    found: dict[str, list[str]] = {}
    for row in router_rows(card):
        if len(row.kinds) > 1:
            worst = min(sorted(row.kinds), key=lambda kind: row.kinds[kind].agreement.mean)
            kept = share(row.kinds[worst].agreement.mean)
            found.setdefault(worst, []).append(f"{kept} at {row.version} {row.layer_policy}")
    said = "; ".join(f"{kind} ({', '.join(kept)})" for kind, kept in found.items())
    return element("p", f"The class that is hurt most, by agreement: {said}.") if found else None
