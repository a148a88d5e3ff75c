"""The plots: how faithful each pruner is at what a budget costs.

What it is: four plots, agreement and retention against FLOPs and against time to first token, as markup.
What it knows: the card's rows and costs; Matplotlib, which it loads on use.
What it does not know: how anything was measured.

One curve per pruner (and per policy, where the card has one under both), its points the versions, with 95 % intervals.
The router stands at its cost with the router's own share; the others at the cost without, in their favour.
"""

from __future__ import annotations

import io
import warnings
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from allrounder.card import ROUTER, Card, Row
from allrounder.commands.page.markup import Markup, clean, element
from allrounder.commands.page.rows import SLOTS, both_pruned, cost_of, label, ordered, slots
from allrounder.commands.page.svg import INKS, inline
from allrounder.commands.page.words import listed
from allrounder.errors import EngineUnavailable
from allrounder.manifest import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Curve", "Point", "curves", "draw", "plots"]

Measure = Literal["agreement", "retention"]
Axis = Literal["flops", "ttft"]

_SIZE = (5.3, 3.9)  # inches; shown larger, so that its text is as large as the page's
_TEXT, _LONGEST, _LETTER = 8.5, 30, 0.067  # points, letters of a label, inches a letter takes
_GAP = 0.061  # of the plot's height between two labels
_COARSE = 0.08  # a scale longer than this needs no digits after the point
_DODGE = 1.6  # points that neighbours at one cost are set apart
_INK, _QUIET, _LINE, _PAPER = list(INKS)[SLOTS:]
_MARKERS = "osD^vPXph<"
_TITLES = {"agreement": "Agreement with full", "retention": "Retention of full's accuracy"}
_COSTS = {"flops": "FLOPs, share of full's prefill", "ttft": "Time to first token, share of full's"}


class Point(NamedTuple):
    """One version of a curve."""

    version: str
    cost: float
    figure: Estimate


class Curve(NamedTuple):
    """One pruner under one policy, its points from cheap to dear."""

    name: str
    slot: int
    router: bool
    frozen: bool
    points: tuple[Point, ...]


def plots(card: Card) -> Markup:
    """Returns the four plots with their captions.

    Raises:
        EngineUnavailable: Matplotlib is not installed.
    """
    pairs: tuple[tuple[Measure, Axis], ...] = (
        ("agreement", "flops"),
        ("agreement", "ttft"),
        ("retention", "flops"),
        ("retention", "ttft"),
    )
    drawn = [_figure(card, measure, axis) for measure, axis in pairs]
    explained = (
        "Up is more faithful, left is cheaper. Bars are 95% intervals; points at one cost are set slightly apart. The "
        "router pays for itself in these plots; the other pruners are drawn at the cost of the pruned model alone."
        + _asked(card)
    )
    return element(
        "section",
        element("h2", "Fidelity against cost"),
        element("p", explained),
        element("div", *drawn, class_="plots"),
    )


def _asked(card: Card) -> str:
    """Says so where the router was asked other questions than the others."""
    asked: dict[bool, set[int]] = {True: set(), False: set()}
    for row in card.rows:
        if both_pruned(card, row):
            asked[row.pruner == ROUTER].add(row.figures.questions)
    if not asked[False] or asked[True] == asked[False]:
        return ""
    ours, theirs = (listed(f"{count:,}" for count in sorted(asked[side])) for side in (True, False))
    return f" The router was asked {ours} questions, the others {theirs}; the table above compares on the same ones."


def curves(card: Card, measure: Measure, axis: Axis) -> tuple[list[Curve], list[str]]:
    """Returns the curves of one plot, and the names of those points that have no cost or no figure."""
    found: dict[tuple[str, str], list[Point]] = {}
    names: dict[tuple[str, str], Row] = {}
    absent: list[str] = []
    for row in ordered(card.rows):
        if not both_pruned(card, row):
            continue
        key = (row.pruner, row.layer_policy)
        names.setdefault(key, row)
        figure, cost = getattr(row.figures, measure), _cost(card, row, axis)
        if figure is None or cost is None:
            absent.append(f"{label(card, row)} at {row.version}")
        else:
            found.setdefault(key, []).append(Point(row.version, cost, figure))
    colours = slots(card)
    drawn = [
        Curve(
            label(card, names[pruner, policy]),
            colours[pruner],
            pruner == ROUTER,
            policy == "frozen",
            tuple(sorted(points, key=lambda point: point.cost)),
        )
        for (pruner, policy), points in found.items()
    ]
    return drawn, absent


def _cost(card: Card, row: Row, axis: Axis) -> float | None:
    cost = cost_of(card, row.version, row.layer_policy)
    if cost is None:
        return None
    if axis == "flops":
        return cost.flops if row.pruner == ROUTER else cost.flops_alone
    return cost.ttft if row.pruner == ROUTER else cost.ttft_alone


def _figure(card: Card, measure: Measure, axis: Axis) -> Markup:
    title = f"{_TITLES[measure]} against {'FLOPs' if axis == 'flops' else 'time to first token'}"
    drawn, absent = curves(card, measure, axis)
    if not drawn:
        why = "no right answers are known" if measure == "retention" else "nothing was counted"
        why = "nothing was timed, or no right answers are known" if (measure, axis) == ("retention", "ttft") else why
        why = "nothing was timed" if (measure, axis) == ("agreement", "ttft") else why
        return element("figure", element("figcaption", f"{title}: no plot, because {why}."))
    alt = f"{title}, by pruner: {listed(_spoken(curve) for curve in drawn)}"
    svg = inline(_svg_text(drawn, measure, axis), f"{measure}-{axis}", alt)
    left_out = f"Not drawn, for want of a figure or a cost: {listed(absent)}."
    note = element("p", element("small", left_out)) if absent else None
    return element("figure", element("figcaption", element("b", title)), svg, note)


def _spoken(curve: Curve) -> str:
    first, last = curve.points[0], curve.points[-1]
    ends = [f"{100 * point.figure.mean:.1f}% at {100 * point.cost:.0f}% of the cost" for point in (first, last)]
    return f"{curve.name} {ends[0]}" + (f" to {ends[1]}" if len(curve.points) > 1 else "")


def _svg_text(drawn: list[Curve], measure: Measure, axis: Axis) -> str:
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EngineUnavailable(
            "the card's page is drawn by Matplotlib, which is not installed",
            got=error,
            remedy="pip install 'allrounder[report]'",
        ) from error
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": f"allrounder {measure} {axis}",  # identifiers that do not change from run to run
        "font.family": "DejaVu Sans",  # comes with Matplotlib; lays the text out, the page's font shows it
        "text.parse_math": False,
        "font.size": _TEXT,
    }
    file = io.StringIO()
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page's fonts will have it
        figure = Figure(figsize=_SIZE)
        FigureCanvasSVG(figure)
        draw(figure, drawn, _COSTS[axis])
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def draw(figure: Figure, drawn: list[Curve], costs: str) -> None:
    """Draws curves with their names at the cheap end, where they lie furthest apart; the scale is at the right."""
    from matplotlib.ticker import PercentFormatter

    letters = max(len(_short(curve.name)) for curve in drawn)
    left = (letters * _LETTER + 0.32) / _SIZE[0]
    axes = figure.add_axes((left, 0.13, 0.9 - left, 0.83))
    _limits(axes, drawn)
    for index, curve in enumerate(sorted(drawn, key=lambda each: each.router)):
        _curve(axes, curve, (index - (len(drawn) - 1) / 2) * _DODGE)
    _labels(axes, drawn)
    axes.set_facecolor("none")
    figure.patch.set_visible(False)
    for side in ("left", "top", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_QUIET)
    axes.yaxis.tick_right()
    axes.tick_params(axis="y", length=0, labelcolor=_QUIET)
    axes.tick_params(axis="x", color=_QUIET, labelcolor=_QUIET)
    axes.grid(axis="y", color=_LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel(costs, color=_INK)
    for scale, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        scale.set_major_formatter(PercentFormatter(1.0, decimals=0 if high - low > _COARSE else 1))


def _limits(axes: Axes, drawn: list[Curve]) -> None:
    points = [point for curve in drawn for point in curve.points]
    costs = [point.cost for point in points]
    low = min(point.figure.low for point in points)
    high = max(1.0, *(point.figure.high for point in points))
    wide, tall = max(max(costs) - min(costs), 0.04), max(high - low, 0.02)
    axes.set_xlim(min(costs) - 0.08 * wide, max(costs) + 0.08 * wide)
    axes.set_ylim(low - 0.06 * tall, high + 0.06 * tall)
    axes.axhline(1.0, color=_QUIET, linewidth=0.9)
    if min(costs) < 1 < max(costs):
        axes.axvline(1.0, color=_QUIET, linewidth=0.9)


def _curve(axes: Axes, curve: Curve, shift: float) -> None:
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure()
    assert figure is not None
    apart = axes.transData + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans)
    colour = _colour(curve)
    costs, means = [point.cost for point in curve.points], [point.figure.mean for point in curve.points]
    style: dict[str, Any] = {"color": colour, "transform": apart, "zorder": 4 if curve.router else 3}
    lows, highs = [point.figure.low for point in curve.points], [point.figure.high for point in curve.points]
    axes.vlines(costs, lows, highs, linewidth=1.6 if curve.router else 0.9, alpha=0.9 if curve.router else 0.6, **style)
    axes.plot(
        costs,
        means,
        linestyle=(0, (4, 2)) if curve.frozen and curve.router else "-",
        linewidth=2.4 if curve.router else 1.1,
        marker=_MARKERS[curve.slot],
        markersize=6.5 if curve.router else 4.5,
        markeredgecolor=_PAPER,
        markeredgewidth=0.8,
        **style,
    )


def _labels(axes: Axes, drawn: list[Curve]) -> None:
    bottom, top = axes.get_ylim()
    ranked = sorted(drawn, key=lambda curve: curve.points[0].figure.mean)
    wished = [(curve.points[0].figure.mean - bottom) / (top - bottom) for curve in ranked]
    for curve, height in zip(ranked, spread(wished), strict=True):
        first = curve.points[0]
        axes.annotate(
            _short(curve.name),
            xy=(first.cost, first.figure.mean),
            xytext=(-0.015, height),
            textcoords="axes fraction",
            ha="right",
            va="center",
            color=_colour(curve),
            fontweight="bold" if curve.router else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": _colour(curve),
                "linewidth": 0.6,
                "alpha": 0.55,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (1, 0.5),
            },
        )


def spread(wished: list[float]) -> list[float]:
    """Returns heights, 0 to 1, for ascending ``wished`` ones: far enough apart that no two labels meet, else as near.

    Less the gaps below them, heights must not fall: the least squares answer is that of pool adjacent violators (Ayer
    et al., 1955).
    """
    gap = min(_GAP, 1.0 / max(1, len(wished) - 1))
    pools: list[list[float]] = []
    for index, height in enumerate(wished):
        pools.append([height - index * gap])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    roof = 1.0 - (len(wished) - 1) * gap
    lowered = [min(max(fmean(pool), 0.0), roof) for pool in pools for _ in pool]
    return [height + index * gap for index, height in enumerate(lowered)]


def _colour(curve: Curve) -> str:
    return list(INKS)[curve.slot]


def _short(name: str) -> str:
    text = clean(name).replace("\n", " ")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
