"""What the page embeds: plots of fidelity against cost and by tiles, sample images, and the veil over dropped patches.

Where an image is one tile, image tokens are the cells of a square grid, row by row. Matplotlib is loaded on use.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from allrounder.calib.report.tiles import VersionTiles, tables
from allrounder.commands.report.rows import both_pruned, label, ordered
from allrounder.fidelity_report import ROUTER, FidelityReport, Row
from allrounder.manifest import Estimate
from allrounder.versions import FULL

__all__ = ["Curve", "Plot", "Point", "curves", "plots", "png", "tile_plots", "veil"]

_MEASURES = {"agreement": "Agreement with full", "retention": "Retention of full's accuracy"}
_COSTS = {"flops": "FLOPs, share of full's prefill", "ttft": "Time to first token, share of full's"}
_INKS = {"light": "#1c1e21", "dark": "#e7e7e3"}
_MARKERS = "osD^vPXph<>"  # one more than there are colours, so that no two of many curves look alike
_APART = 0.004  # of the cost axis, between curves at one cost
_LARGEST = 448  # pixels of a side as embedded: models see about as many


class Point(NamedTuple):
    """One version of a curve at its cost, or one number of tiles."""

    cost: float
    figure: Estimate


class Curve(NamedTuple):
    """One pruner under one policy, its points from left to right."""

    name: str
    router: bool
    points: list[Point]


class Plot(NamedTuple):
    """One plot; ``images`` by colour scheme, none where there is nothing to draw, and ``missing`` says what is not."""

    title: str
    alt: str
    images: dict[str, str]
    missing: list[str]


def plots(report: FidelityReport) -> list[Plot]:
    """Returns agreement and retention, each against FLOPs and against time to first token."""
    return [_plot(report, measure, axis) for measure in _MEASURES for axis in _COSTS]


def curves(report: FidelityReport, measure: str, axis: str) -> tuple[list[Curve], list[str]]:
    """Returns the curves of one plot, and the names of those points that have no cost or no figure.

    The router is at its cost with its own share; the others at the cost without, in their favour.
    """
    found: dict[str, Curve] = {}
    missing: list[str] = []
    for row in ordered(report, report.rows):
        if both_pruned(report, row):
            name, figure, cost = label(report, row), getattr(row.figures, measure), _cost(report, row, axis)
            if figure is None or cost is None:
                missing.append(f"{name} at {row.version}")
            else:
                found.setdefault(name, Curve(name, row.pruner == ROUTER, [])).points.append(Point(cost, figure))
    for curve in found.values():
        curve.points.sort(key=lambda point: point.cost)
    return list(found.values()), missing


def _cost(report: FidelityReport, row: Row, axis: str) -> float | None:
    return report.cost(row)[list(_COSTS).index(axis)]


def _plot(report: FidelityReport, measure: str, axis: str) -> Plot:
    drawn, missing = curves(report, measure, axis)
    title = f"{_MEASURES[measure]} against {'FLOPs' if axis == 'flops' else 'time to first token'}"
    spoken = "; ".join(f"{curve.name} {_spoken(curve.points)}" for curve in drawn)
    images = {scheme: _drawn(drawn, _COSTS[axis], ink) for scheme, ink in _INKS.items()} if drawn else {}
    return Plot(title, f"{title}, by pruner: {spoken}", images, missing)


def tile_plots(report: FidelityReport) -> list[Plot]:
    """Returns agreement against the number of tiles of the question's image, a plot for each version but `full`."""
    numbers = [group.tiles for group in report.by_tiles]
    return [_tile_plot(each, numbers) for each in tables(report) if each.version != FULL]


def _tile_plot(shown: VersionTiles, numbers: Sequence[int]) -> Plot:
    drawn: list[Curve] = []
    for line in shown.lines:
        policies = {other.layer_policy for other in shown.lines if other.pruner == line.pruner}
        name = f"{line.name}, {line.layer_policy}" if len(policies) > 1 else line.name
        points = [Point(count, cell.figures.agreement) for count, cell in zip(numbers, line.cells, strict=True)]
        drawn.append(Curve(name, line.pruner == ROUTER, points))
    title = f"{shown.version}: agreement with full, by the number of tiles"
    spoken = "; ".join(
        f"{curve.name} " + ", ".join(f"{point.figure.mean:.1%} at {point.cost:.0f}" for point in curve.points)
        for curve in drawn
    )
    images = {scheme: _drawn(drawn, "Tiles of the image", ink, shares=False) for scheme, ink in _INKS.items()}
    return Plot(title, f"{title}, by pruner: {spoken}", images, [])


def _spoken(points: list[Point]) -> str:
    ends = points if len(points) < 2 else (points[0], points[-1])
    return " to ".join(f"{point.figure.mean:.1%} at {point.cost:.0%} of the cost" for point in ends)


def _drawn(drawn: list[Curve], axis: str, ink: str, *, shares: bool = True) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",  # a fifth of the size of glyphs as paths
        "svg.hashsalt": "allrounder",  # identifiers that do not change from run to run
        "text.parse_math": False,
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink),
    }
    every = [point.cost for curve in drawn for point in curve.points]
    apart = _APART * max(max(every) - min(every), 0.04)
    file = io.BytesIO()
    with mpl.rc_context(settings):
        figure = Figure((6.4, 5.0), layout="constrained")
        axes = figure.subplots()
        for index, curve in enumerate(drawn):
            means = [point.figure.mean for point in curve.points]
            axes.errorbar(
                [point.cost + (index - len(drawn) / 2) * apart for point in curve.points],
                means,
                np.abs(np.array([[point.figure.low, point.figure.high] for point in curve.points]).T - means),
                label="".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in curve.name),
                color=f"C{index % 10}",
                marker=_MARKERS[index % len(_MARKERS)],
                markersize=6 if curve.router else 4,
                linewidth=2.4 if curve.router else 1.0,
                elinewidth=1.0,
                zorder=4 if curve.router else 3,
            )
        axes.axhline(1.0, color=ink, linewidth=0.8)
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(axis)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        if shares:
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _address("svg+xml", file.getvalue())


def png(image: Image.Image) -> str:
    """Returns an image as PNG, scaled down to at most 448 pixels a side."""
    small = image.copy()
    small.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    return _png(small)


def veil(kept: Iterable[int], grid: int) -> str:
    """Returns an image of one pixel for each image token: black where it is dropped, transparent where it is kept."""
    pixels = np.full((grid * grid, 4), (0, 0, 0, 210), np.uint8)
    pixels[list(kept)] = 0
    return _png(Image.fromarray(pixels.reshape(grid, grid, 4)))


def _png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return _address("png", file.getvalue())


def _address(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(data).decode('ascii')}"
