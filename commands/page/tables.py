"""The further tables: by class of question, one side pruned alone, the router against others, and costs.

What it is: sections as markup. What it knows: the card. What it does not know: how figures came about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby

from allrounder.card import Card, Comparison, Figures, Row
from allrounder.commands.page.markup import Markup, element, join, table
from allrounder.commands.page.rows import Halves, budgets, halves, kinds, ordered, router_rows, slots
from allrounder.commands.page.words import absent, kl, nats, p_value, percent, points, share

__all__ = ["SIGNIFICANT", "by_class", "compared", "costs", "one_side", "swatch", "verdict"]

SIGNIFICANT = 0.05  # below it a comparison counts as won

_UNANSWERED = "no answers known"


def swatch(slot: int) -> Markup:
    """Returns a dot in a pruner's colour; the name always stands beside it."""
    return element("span", class_=f"dot p{slot}", aria_hidden="true")


def by_class(card: Card) -> Markup:
    """Returns retention, agreement and KL per class of question, a class on each line."""
    title = element("h2", "By class of question")
    if not kinds(card):
        return element("section", title, element("p", "The questions are of no classes."))
    rows = router_rows(card)
    titles = [join((row.version, element("br"), element("small", row.layer_policy))) for row in rows]
    measures: tuple[tuple[str, Callable[[Figures], Markup]], ...] = (
        ("Agreement with full, by class of question", lambda figures: percent(figures.agreement)),
        ("Retention: accuracy over that of full, by class of question", lambda figures: percent(figures.retention)),
        ("KL from full in nats, by class of question", lambda figures: kl(figures.kl)),
    )
    drawn = [_class_table(card, rows, titles, caption, shown) for caption, shown in measures]
    return element("section", title, _class_facts(card), *drawn)


def _class_facts(card: Card) -> Markup:
    """Says how many questions of each class there are, and how many of them full has right."""
    facts = []
    for kind in kinds(card):
        full = card.full_kinds.get(kind)
        right = "" if full is None or full.accuracy is None else f", full has {share(full.accuracy.mean)} right"
        facts.append(f"{kind} ({'not asked of full' if full is None else f'{full.questions:,} questions'}{right})")
    return element("p", f"Classes: {'; '.join(facts)}.")


def _class_table(
    card: Card, rows: list[Row], titles: list[Markup], caption: str, shown: Callable[[Figures], Markup]
) -> Markup:
    body = []
    for kind in kinds(card):
        cells = [shown(row.kinds[kind]) if kind in row.kinds else absent("not measured") for row in rows]
        body.append(element("tr", element("th", kind, scope="row"), *(element("td", cell) for cell in cells)))
    return table(caption, ("Class", *titles), body)


def one_side(card: Card) -> Markup:
    """Returns, per version, what its tokens alone and its layers alone do."""
    groups, others = halves(card)
    title = element("h2", "Tokens alone, layers alone")
    if not groups and not others:
        return element("section", title, element("p", "The card has no version with one side pruned alone."))
    header = (
        "What is pruned",
        "Tokens",
        "Layers",
        "Pruner",
        "Policy",
        "Accuracy",
        "Retention",
        "Agreement",
        "KL, nats",
    )
    body: list[Markup] = []
    for group in groups:
        body += _group(group, len(header), slots(card))
    if others:
        body.append(_heading("Budgets of no version above", len(header)))
        body += [_half_row(_side(card, row), row, slots(card)) for row in others]
    caption = (
        "Which half of a budget does the harm: each version, its tokens alone (all layers run), and its layers alone "
        "(all tokens kept)."
    )
    return element("section", title, table(caption, header, body))


def _group(group: Halves, width: int, colours: dict[str, int]) -> list[Markup]:
    rows = [_heading(f"{group.version}: {group.tokens} tokens, {group.layers} layers", width)]
    for name, members in (
        ("both", group.both),
        ("tokens alone", group.tokens_alone),
        ("layers alone", group.layers_alone),
    ):
        rows += [_half_row(name, row, colours) for row in members]
    return rows


def _side(card: Card, row: Row) -> str:
    return "tokens alone" if row.layers == card.layers else "layers alone"


def _heading(text: str, width: int) -> Markup:
    return element("tr", element("th", text, colspan=width, scope="colgroup"), class_="group")


def _half_row(name: str, row: Row, colours: dict[str, int]) -> Markup:
    figures = row.figures
    cells = (
        row.tokens,
        row.layers,
        join((swatch(colours[row.pruner]), row.pruner)),
        row.layer_policy,
        percent(figures.accuracy),
        percent(figures.retention),
        percent(figures.agreement),
        kl(figures.kl),
    )
    return element("tr", element("th", name, scope="row"), *(element("td", cell) for cell in cells))


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


def compared(card: Card) -> Markup:
    """Returns the router against every other pruner, per budget."""
    title = element("h2", "The router against other pruners")
    if not card.comparisons:
        return element("section", title, element("p", "The card compares the router with no other pruner."))
    place = {version: index for index, version in enumerate(budgets(card))}
    rows = sorted(card.comparisons, key=lambda each: (place.get(each.version, len(place)), each.version, each.pruner))
    header = (
        "Against",
        "Questions",
        "Agreement, points",
        "p",
        "By agreement",
        "KL, nats",
        "p",
        "By KL",
    )
    body: list[Markup] = []
    for version, members in groupby(rows, key=lambda each: each.version):
        body.append(_heading(_named(card, version), len(header)))
        body += [_comparison(each, slots(card)) for each in members]
    caption = (
        "The router minus the other at the same budget on the same questions, with 95% intervals. More agreement is "
        "better (+), less KL is better (\N{MINUS SIGN}). p is one-sided, not corrected for the number of comparisons."
    )
    return element("section", title, _tally(rows), table(caption, header, body))


def _named(card: Card, version: str) -> str:
    known = budgets(card).get(version) or next(
        ((row.tokens, row.layers) for row in ordered(card.rows) if row.version == version), None
    )
    return version if known is None else f"{version}: {known[0]} tokens, {known[1]} layers"


def _tally(rows: Iterable[Comparison]) -> Markup:
    by_agreement, by_kl = zip(*(_verdicts(each) for each in rows), strict=True)
    counts = [f"{names.count('router wins')} of {len(names)}" for names in (by_agreement, by_kl)]
    return element(
        "p",
        f"The router wins (p < {SIGNIFICANT}) {counts[0]} comparisons by agreement and {counts[1]} by KL. "
        "The others are marked in words: NO WIN SHOWN, or ROUTER LOSES where the other one is better.",
    )


def _verdicts(row: Comparison) -> tuple[str, str]:
    gain, less = row.difference, row.kl_difference
    return verdict(gain.mean, gain.high, row.p), verdict(-less.mean, -less.low, row.kl_p)


def _comparison(row: Comparison, colours: dict[str, int]) -> Markup:
    by_agreement, by_kl = _verdicts(row)
    cells = (
        f"{row.questions:,}",
        points(row.difference),
        p_value(row.p),
        _word(by_agreement),
        nats(row.kl_difference),
        p_value(row.kl_p),
        _word(by_kl),
    )
    return element(
        "tr",
        element("th", swatch(colours[row.pruner]), row.pruner, scope="row"),
        *(element("td", cell) for cell in cells),
        class_=None if by_agreement == by_kl == "router wins" else "lost",
    )


def _word(word: str) -> Markup:
    return element("span", word) if word == "router wins" else element("strong", word)


def costs(card: Card) -> Markup:
    """Returns what each version costs, with and without the router, and in the paper's way of counting."""
    title = element("h2", "What the versions cost")
    if not card.costs:
        return element("section", title, element("p", "Nothing was counted or timed for this card."))
    header = (
        "Version",
        "Policy",
        "FLOPs with router",
        "FLOPs without",
        "FLOPs as the paper counts",
        "TTFT with router",
        "TTFT without",
    )
    body = [
        element(
            "tr",
            element("th", cost.version, scope="row"),
            element("td", cost.layer_policy),
            *(element("td", share(value)) for value in (cost.flops, cost.flops_alone, cost.paper_flops)),
            *(
                element("td", absent("not timed") if value is None else share(value))
                for value in (cost.ttft, cost.ttft_alone)
            ),
        )
        for cost in card.costs
    ]
    caption = "Shares of full. Tables and plots above use the first way of counting FLOPs, never the paper's."
    return element("section", title, table(caption, header, body))
