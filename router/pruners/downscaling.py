"""Image downscaling: the baseline that selects no token and shows the model a smaller image instead.

Pure functions of an image plan and sizes; no model, no pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import msgspec

from allrounder.errors import InvalidBudget, ModelUnsupported
from allrounder.images.plan import Canvases, Color, Fixed, ImagePlan, LongestEdge, NearestAspect
from allrounder.images.planning import Extent, Newline, Pad, PlannedImage, Resize, Tiles, View, plan_images
from allrounder.images.shown import Shown, ShownImage
from allrounder.versions import EVERYTHING, Keep, kept_tokens

__all__ = ["downscale", "reaches_below_a_tile"]

_BLACK = (0, 0, 0)


def downscale(plan: ImagePlan, sizes: Sequence[Extent], keep: Keep) -> Shown:
    """Shows each image in at most the T_i image tokens that ``keep`` leaves of it, all of which stay.

    Of the ways below, the one that gives most tokens within T_i:

    1. The image as it is, where ``keep`` leaves everything.
    2. Fewer tiles, by the stock processor's own settings: canvases of fewer tiles (LLaVA-NeXT, LLaVA-OneVision), fewer
       tiles at most (InternVL), a shorter longest edge (SmolVLM). The processor scales the image down to them.
    3. The whole image as one tile, as the stock model packs a single one: on canvases, a newline token behind it.
    4. Less than a tile, where a smaller image changes no token count by itself (LLaVA-1.5 always): the image in the
       middle of the tile at k x k tokens, padding around it, and the tokens of the padding left out.

    Args:
        plan: The model's.
        sizes: Height and width of each image, pixels.
        keep: The version's keep rule.

    Raises:
        ImageInvalid: An image is too narrow for the plan.
        ModelUnsupported: The budget is below one tile, whose tokens are no square grid.
        InvalidBudget: Not even one token of the image would be within T_i.
    """
    alone = len(sizes) == 1
    images = [
        _most(plan, size, planned, kept_tokens(keep, planned.tokens), alone)
        for size, planned in zip(sizes, plan_images(plan, sizes), strict=True)
    ]
    return Shown(tuple(images), EVERYTHING)


def reaches_below_a_tile(plan: ImagePlan) -> bool:
    """Whether budgets below one tile can be met: its tokens are a square grid."""
    return math.isqrt(plan.tokens) ** 2 == plan.tokens


@lru_cache(maxsize=256)
def _most(plan: ImagePlan, size: Extent, planned: PlannedImage, most: int, alone: bool) -> ShownImage:
    """Returns the way to show an image that gives most tokens within ``most``."""
    within = [each for each in (planned, *_smaller(plan, size, most, alone)) if each.tokens <= most]
    if within:
        return ShownImage(max(within, key=lambda each: each.tokens))
    return _part(plan, *_one_tile(plan, size, alone), most)


def _smaller(plan: ImagePlan, size: Extent, most: int, alone: bool) -> Iterator[PlannedImage]:
    """Returns what an image becomes in fewer tiles, down to one."""
    yield _one_tile(plan, size, alone)[0]
    match plan.layout:
        case Canvases(canvases=canvases, several=several) as layout if alone or several is None:
            areas = sorted({height * width for height, width in canvases})
            for area in areas[:-1]:
                fewer = tuple(canvas for canvas in canvases if canvas[0] * canvas[1] <= area)
                yield _planned(plan, msgspec.structs.replace(layout, canvases=fewer), size)
        case NearestAspect(least=least, most=tiles) as layout:
            for count in range(2, min(tiles - 1, most // plan.tokens) + 1):
                yield _planned(plan, msgspec.structs.replace(layout, least=min(least, count), most=count), size)
        case LongestEdge(edge=longest, split=True) as layout:
            for edge in range(2 * plan.size, longest, plan.size):
                yield _planned(plan, msgspec.structs.replace(layout, edge=edge), size)


def _one_tile(plan: ImagePlan, size: Extent, alone: bool) -> tuple[PlannedImage, Color]:
    """Returns the whole image as one tile, and the colour that stands around it where it is made smaller."""
    match plan.layout:
        case Fixed(square=square) as layout:
            return _planned(plan, layout, size), square or _BLACK
        case Canvases(several=several):
            square = None if alone else several
            (view,) = _planned(plan, Fixed(square=square), size).views
            return PlannedImage((view,), (Tiles(0, 1), Newline()), (plan.tokens + 1,)), square or _BLACK
        case NearestAspect() as layout:
            return _planned(plan, msgspec.structs.replace(layout, least=1, most=1), size), _BLACK
        case LongestEdge() as layout:
            return _planned(plan, msgspec.structs.replace(layout, edge=plan.size), size), _BLACK


def _part(plan: ImagePlan, tile: PlannedImage, color: Color, most: int) -> ShownImage:
    """Returns an image in the middle of its tile, so small that its own tokens are within ``most``."""
    side, newline = math.isqrt(plan.tokens), tile.tokens - plan.tokens
    if not reaches_below_a_tile(plan):
        raise ModelUnsupported(
            "an image cannot be shown in less than a tile whose tokens are no square grid",
            where="downscale",
            got=f"{most} of {plan.tokens} tokens",
            wanted="a square number of tokens of a tile, or a budget of whole tiles",
            remedy="leave downscaling out for this model, or keep more image tokens",
        )
    there = min(math.isqrt(max(most - newline, 0)), side - 1)
    if there < 1:
        raise InvalidBudget(
            "an image cannot be shown in so few tokens",
            where="downscale",
            got=most,
            wanted=f"{1 + newline} or more",
            remedy="keep more image tokens",
        )
    pixels, first = plan.size // side, (side - there) // 2
    before, behind = first * pixels, plan.size - (first + there) * pixels
    (steps,) = (view.steps for view in tile.views)
    kept = steps[:-1] if isinstance(steps[-1], Resize) else steps
    smaller = View((*kept, Resize(there * pixels, there * pixels), Pad(before, behind, before, behind, color)))
    rows = range(first, first + there)
    given = [row * side + column for row in rows for column in rows]
    return ShownImage(tile._replace(views=(smaller,)), (*given, *range(plan.tokens, tile.tokens)))


def _planned(plan: ImagePlan, layout: Fixed | Canvases | NearestAspect | LongestEdge, size: Extent) -> PlannedImage:
    return plan_images(msgspec.structs.replace(plan, layout=layout), [size])[0]
