"""What an image plan must be to make sense as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NoReturn

from allrounder.errors import BundleCorrupt
from allrounder.images.plan import MOST_TOKENS, Canvases, Fixed, ImagePlan, LongestEdge, NearestAspect

__all__ = ["check_image_plan"]

_MOST_EDGE = 1 << 16  # any length that a plan names, pixels
_MOST_GRID = 1 << 10  # tiles of a grid by aspect ratio: all its shapes are tried
_Range = tuple[str, int, int, int]  # name, value, the least and the most that it may be


def check_image_plan(plan: ImagePlan, *, where: object) -> None:
    """Checks a plan.

    Raises:
        BundleCorrupt: A length or count beyond all reason, no canvas or one that is not made of tiles, tokens of a tile
            that are no square where a canvas is made of them, a crop larger than the image.
    """
    for name, value, least, most in _ranges(plan):
        if not least <= value <= most:
            _refuse(where, name, value, f"{least} to {most}")
    if not isinstance(plan.layout, Canvases):
        return
    if not plan.layout.canvases:
        _refuse(where, "layout.canvases", "none", "at least one")
    for height, width in plan.layout.canvases:
        if height % plan.size or width % plan.size:
            _refuse(where, "layout.canvases", f"{height} x {width}", f"multiples of {plan.size}")
    if math.isqrt(plan.tokens) ** 2 != plan.tokens:
        _refuse(where, "tokens", plan.tokens, "a square")


def _ranges(plan: ImagePlan) -> Iterator[_Range]:
    yield "size", plan.size, 1, _MOST_EDGE
    yield "tokens", plan.tokens, 1, MOST_TOKENS
    match plan.layout:
        case Fixed(shortest=shortest):
            if shortest is not None:
                yield "layout.shortest", shortest, plan.size, _MOST_EDGE
        case Canvases(canvases=canvases, most=most):
            yield from (("layout.canvases", side, plan.size, _MOST_EDGE) for canvas in canvases for side in canvas)
            if most is not None:
                yield "layout.most", most, 1, MOST_TOKENS
        case NearestAspect(least=least, most=most):
            yield "layout.most", most, 1, _MOST_GRID
            yield "layout.least", least, 1, most
        case LongestEdge(edge=edge):
            yield "layout.edge", edge, 1, _MOST_EDGE


def _refuse(where: object, name: str, got: object, wanted: str) -> NoReturn:
    raise BundleCorrupt(
        "the image plan is impossible",
        where=f"{where}, image plan, {name}",
        got=got,
        wanted=wanted,
        remedy="build the bundle again",
    )
