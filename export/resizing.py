"""Pillow's resizing as ONNX nodes.

`Resize` with the filters, rounding and order of passes of the installed Pillow; releases differ in the order.

Pillow resizes in uint8 with an antialiasing filter, one axis after the other, and rounds to whole steps in between.
`Resize` does the same with these attributes, up to one step of 255 on few pixels, rarely two; in float it would differ
by up to 21. `Resize` of two axes filters rows first, as Pillow up to 12.1 does. Since then Pillow filters the columns
of some images first, which moves up to 29 steps: see `Order`. A graph has the order of the Pillow that is installed
where it is written, since that is what the stock processor resizes with there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from allrounder.export.graph.writer import GraphWriter

__all__ = ["ORDERS", "Order", "installed_order", "resized"]


class Order(NamedTuple):
    """Columns come first where the height shrinks and is more than ``times`` the width; else rows do.

    Sources: ``Image.resize`` of https://github.com/python-pillow/Pillow/blob/12.2.0/src/PIL/Image.py, and
    ``horizontal_first`` in https://github.com/python-pillow/Pillow/blob/13.0.0/src/libImaging/Resample.c.
    """

    times: int
    lost: bool  # compares what height and width lose, not what they are
    probe: tuple[int, int]  # height, width: shrunk to 8 x 8, columns come first by this order and by no earlier one
    about: str


ORDERS = (  # the newest first
    Order(times=2, lost=True, probe=(64, 16), about="columns first where far more height than width goes (Pillow 13)"),
    Order(times=100, lost=False, probe=(901, 9), about="columns first beyond 100 : 1 (Pillow 12.2 and 12.3)"),
)


def installed_order() -> Order | None:
    """Asks the installed Pillow, by resizing; None where it always filters rows first."""
    return next((order for order in ORDERS if _columns_first(*order.probe)), None)


def _columns_first(height: int, width: int) -> bool:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width), np.uint8))
    return image.resize((8, 8)) == image.resize((width, 8)).resize((8, 8))


def resized(graph: GraphWriter, pixels: str, edges: str, *, mode: str, order: Order | None) -> str:
    """Resizes ``pixels`` uint8 [1, 3, height, width] to ``edges`` int64 [2] with the filter ``mode``."""

    def resize(writer: GraphWriter, values: str, sizes: str, *axes: int) -> str:
        return writer.node(
            "Resize",
            [values, "", "", sizes],
            "resized",
            axes=axes,
            mode=mode,
            antialias=1,
            cubic_coeff_a=-0.5,
            exclude_outside=1,
            coordinate_transformation_mode="half_pixel",
        )

    if order is None:
        return resize(graph, pixels, edges, 2, 3)
    height, width = graph.nodes("Split", [edges], ("new_height", "new_width"), num_outputs=2)
    return graph.choose(
        _is_tall(graph, pixels, edges, order),
        lambda branch: [resize(branch, resize(branch, pixels, height, 2), width, 3)],
        lambda branch: [resize(branch, pixels, edges, 2, 3)],
        ["resized"],
    )[0]


def _is_tall(graph: GraphWriter, pixels: str, edges: str, order: Order) -> str:
    """Returns a bool scalar: whether columns come first."""
    with graph.scope("order"):
        extent = graph.node("Shape", [pixels], "extent", start=2, end=4)
        lost = graph.node("Sub", [extent, edges], "lost")
        loses = graph.node("Gather", [lost, graph.int(0)], "loses")
        shrinks = graph.node("Greater", [loses, graph.int(0)], "shrinks")
        height, width = (
            graph.node("Gather", [lost if order.lost else extent, graph.int(place)], name)
            for place, name in enumerate(("height", "width"))
        )
        limit = graph.node("Mul", [width, graph.int(order.times)], "limit")
        return graph.node("And", [shrinks, graph.node("Greater", [height, limit], "beyond")], "columns_first")
