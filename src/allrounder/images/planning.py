"""Planning: what an image of some size becomes under an image plan, before a pixel is read.

The numbers are those of the stock processors, rounding included, so that ids, tiles and image tokens are theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from allrounder.errors import ImageInvalid
from allrounder.images.plan import MOST_SIDE, MOST_TOKENS, Canvases, Fixed, ImagePlan, LongestEdge, NearestAspect

__all__ = [
    "MOST_PIXELS",
    "Crop",
    "Extent",
    "Grid",
    "Newline",
    "Pad",
    "PlannedImage",
    "Resize",
    "Step",
    "Tiles",
    "View",
    "plan_images",
    "token_range",
]

Extent = tuple[int, int]  # height, width
MOST_PIXELS: Final = 1 << 28  # of the largest image on the way to tiles: 768 MiB
_BLACK = (0, 0, 0)


class Pad(NamedTuple):
    """Puts pixels of one colour around an image."""

    top: int
    bottom: int
    left: int
    right: int
    color: tuple[int, int, int]


class Resize(NamedTuple):
    """Resizes an image with the plan's filter."""

    height: int
    width: int


class Crop(NamedTuple):
    """Cuts a part out of an image."""

    top: int
    left: int
    height: int
    width: int


Step = Pad | Resize | Crop


class View(NamedTuple):
    """One way in which an image is looked at: what is done to it, and the grid of tiles that comes out."""

    steps: tuple[Step, ...]
    rows: int = 1
    columns: int = 1


class Tiles(NamedTuple):
    """All tokens of some tiles, tile after tile."""

    first: int
    count: int


class Grid(NamedTuple):
    """Tokens of a grid of tiles, row by row over all of it, a newline token behind each row."""

    first: int  # tile
    rows: int  # of tiles
    columns: int
    cut: Extent  # rows of tokens left out above and below, and columns left and right
    size: Extent  # rows and columns of tokens, without newlines; fewer than there are where they are interpolated


class Newline(NamedTuple):
    """The newline token alone."""


class PlannedImage(NamedTuple):
    """What an image becomes."""

    views: tuple[View, ...]  # their tiles, one view after the other
    sources: tuple[Tiles | Grid | Newline, ...]  # where the image tokens come from, in their order
    content: tuple[str | int, ...]  # in place of the placeholder: text, and how many image tokens

    @property
    def tiles(self) -> int:
        """How many tiles all views have."""
        return sum(view.rows * view.columns for view in self.views)

    @property
    def tokens(self) -> int:
        """N_i."""
        return sum(part for part in self.content if isinstance(part, int))


def plan_images(plan: ImagePlan, sizes: Sequence[Extent]) -> tuple[PlannedImage, ...]:
    """Returns what the images of one prompt become.

    Args:
        plan: The model's image plan.
        sizes: Height and width of each image, pixels.

    Raises:
        ImageInvalid: An image is too narrow for the plan, or would become too many pixels on the way.
    """
    return tuple(_affordable(_planned(plan, size, alone=len(sizes) == 1), size) for size in sizes)


def token_range(plan: ImagePlan) -> tuple[int, int]:
    """Returns the least and the most image tokens of images that fill their tiles, each alone in its prompt."""
    found = [plan_images(plan, [size])[0].tokens for size in _filling(plan)]
    return min(found), max(found)


def _filling(plan: ImagePlan) -> list[Extent]:
    """Returns sizes of images without padding that show the layouts of a plan."""
    side = plan.size
    match plan.layout:
        case Fixed():
            return [(side, side)]
        case Canvases(canvases=canvases):
            return list(canvases)
        case NearestAspect(least=least, most=most):
            numbers = range(1, most + 1)
            return [
                (side * rows, side * columns)
                for rows in numbers
                for columns in numbers
                if least <= rows * columns <= most
            ]
        case LongestEdge(edge=edge):
            return [(height, edge) for height in (*range(side, edge, side), edge)]


def _check_tokens(plan: ImagePlan, size: Extent, tiles: int) -> None:
    """Checks how many tokens some tiles have, before any list grows with them."""
    if tiles > MOST_TOKENS // plan.tokens:
        raise ImageInvalid(
            "the image has too many tokens under this model's image plan",
            got=f"{size[1]} x {size[0]}: {tiles} tiles of {plan.tokens} tokens",
            wanted=f"up to {MOST_TOKENS} tokens",
            remedy="pass a smaller image",
        )


def _affordable(planned: PlannedImage, size: Extent) -> PlannedImage:
    """Returns what was planned; of a resized image, whichever of its axes is resized first."""
    for view in planned.views:
        height, width = size
        for step in view.steps:
            before, (height, width) = (height, width), _after(step, (height, width))
            most = max(before[0], height), max(before[1], width)
            if most[0] * most[1] > MOST_PIXELS:
                raise ImageInvalid(
                    "the image takes too much memory under this model's image plan",
                    got=f"{size[1]} x {size[0]}, which becomes {most[1]} x {most[0]}",
                    wanted=f"up to {MOST_PIXELS} pixels",
                    remedy="pass a smaller or less narrow image",
                )
    return planned


def _after(step: Step, size: Extent) -> Extent:
    match step:
        case Pad(top, bottom, left, right, _):
            return top + size[0] + bottom, left + size[1] + right
        case Resize(height, width) | Crop(_, _, height, width):
            return height, width


def _planned(plan: ImagePlan, size: Extent, *, alone: bool) -> PlannedImage:
    match plan.layout:
        case Fixed(square=square, shortest=shortest):
            return PlannedImage((_whole(plan, size, square, shortest),), (Tiles(0, 1),), (plan.tokens,))
        case Canvases(several=several) if several is not None and not alone:
            view, sources = _whole(plan, size, several, None), (Tiles(0, 1), Newline())
            return PlannedImage((view,), sources, (plan.tokens + 1,))
        case Canvases() as layout:
            return _on_canvas(plan, layout, size)
        case NearestAspect() as layout:
            return _by_aspect(plan, layout, size)
        case LongestEdge() as layout:
            return _by_edge(plan, layout, size)


def _whole(plan: ImagePlan, size: Extent, square: tuple[int, int, int] | None, shortest: int | None) -> View:
    """Returns the view of the whole image as one tile."""
    steps: list[Step] = []
    (height, width), side = size, plan.size
    if square is not None and height != width:
        above, before = (max(size) - height) // 2, (max(size) - width) // 2
        steps.append(Pad(above, max(size) - height - above, before, max(size) - width - before, square))
        height = width = max(size)
    if shortest is None:
        return View((*steps, Resize(side, side)))
    longer = int(shortest * max(height, width) / min(height, width))
    height, width = (shortest, longer) if height <= width else (longer, shortest)
    steps.append(Resize(height, width))
    if (height, width) != (side, side):
        steps.append(Crop((height - side) // 2, (width - side) // 2, side, side))
    return View(tuple(steps))


def _on_canvas(plan: ImagePlan, layout: Canvases, size: Extent) -> PlannedImage:
    canvas = _best_canvas(layout.canvases, size)
    height, width = _fitted(size, canvas)
    above, before = (canvas[0] - height) // 2, (canvas[1] - width) // 2
    pad = Pad(above, canvas[0] - height - above, before, canvas[1] - width - before, _BLACK)
    rows, columns, side = canvas[0] // plan.size, canvas[1] // plan.size, math.isqrt(plan.tokens)
    _check_tokens(plan, size, 1 + rows * columns)
    cut = _padding(size, (rows * side, columns * side))
    left = rows * side - 2 * cut[0], columns * side - 2 * cut[1]
    grid = Grid(1, rows, columns, cut, _interpolated(left, layout.most, plan.tokens))
    if min(grid.size) < 1 <= min(left):
        raise ImageInvalid("the image is too narrow for this model", got=f"{size[1]} x {size[0]}")
    views = View((Resize(plan.size, plan.size),)), View((Resize(height, width), pad), rows, columns)
    return PlannedImage(views, (Tiles(0, 1), grid), (plan.tokens + grid.size[0] * (grid.size[1] + 1),))


def _best_canvas(canvases: Sequence[Extent], size: Extent) -> Extent:
    """Returns the canvas that shows most of the image and, of those, wastes least."""

    def shown_and_wasted(canvas: Extent) -> tuple[int, int]:
        scale = min(canvas[1] / size[1], canvas[0] / size[0])
        shown = min(int(size[1] * scale) * int(size[0] * scale), size[0] * size[1])
        return shown, shown - canvas[0] * canvas[1]

    return max(canvases, key=shown_and_wasted)  # the first of equals


def _fitted(size: Extent, canvas: Extent) -> Extent:
    """Returns the largest size of the image, in its aspect ratio, that fits on a canvas."""
    tall, wide = canvas[0] / size[0], canvas[1] / size[1]
    if wide < tall:
        return min(math.ceil(size[0] * wide), canvas[0]), canvas[1]
    return canvas[0], min(math.ceil(size[1] * tall), canvas[1])


def _padding(size: Extent, grid: Extent) -> Extent:
    """Returns how many rows of tokens above, and columns before, stand for padding alone."""
    (height, width), (rows, columns) = size, grid
    if width / height > columns / rows:
        return (rows - int(round(height * (columns / width), 7))) // 2, 0
    return 0, (columns - int(round(width * (rows / height), 7))) // 2


def _interpolated(grid: Extent, most: int | None, tokens: int) -> Extent:
    ratio = math.sqrt(grid[0] * grid[1] / (most * tokens)) if most else 0.0
    return (int(grid[0] // ratio), int(grid[1] // ratio)) if ratio > 1.1 else grid


def _by_aspect(plan: ImagePlan, layout: NearestAspect, size: Extent) -> PlannedImage:
    columns, rows = _nearest(layout, plan.size, size)
    views = [View((Resize(rows * plan.size, columns * plan.size),), rows, columns)]
    if rows * columns > 1:
        views.append(View((Resize(plan.size, plan.size),)))
    tiles = rows * columns + len(views) - 1
    _check_tokens(plan, size, tiles)
    return PlannedImage(tuple(views), (Tiles(0, tiles),), (layout.before, tiles * plan.tokens, layout.after))


def _nearest(layout: NearestAspect, side: int, size: Extent) -> tuple[int, int]:
    """Returns columns and rows of the grid whose aspect ratio is nearest to the image's."""
    counts = range(1, layout.most + 1)
    grids = [(columns, rows) for columns in counts for rows in counts if layout.least <= columns * rows <= layout.most]
    best, least = (1, 1), math.inf
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        away = abs(size[1] / size[0] - columns / rows)
        if away < least or (away == least and size[0] * size[1] > 0.5 * side * side * columns * rows):
            best, least = (columns, rows), away
    return best


def _by_edge(plan: ImagePlan, layout: LongestEdge, size: Extent) -> PlannedImage:
    first = _bounded(_at_edge(size, layout.edge))
    if not layout.split:
        return _marked(plan, layout, (Resize(*first),), 1, 1)
    second = _in_tiles(first, plan.size)
    rows, columns = second[0] // plan.size, second[1] // plan.size
    _check_tokens(plan, size, rows * columns + (rows * columns > 1))
    return _marked(plan, layout, (Resize(*first), Resize(*second)), rows, columns)


def _marked(plan: ImagePlan, layout: LongestEdge, steps: tuple[Resize, ...], rows: int, columns: int) -> PlannedImage:
    """Returns an image of a grid of tiles, where there are several, and of the whole."""
    whole: tuple[str | int, ...] = (layout.around + layout.whole, plan.tokens, layout.around)
    last = steps if steps[-1] == (plan.size, plan.size) else (*steps, Resize(plan.size, plan.size))
    if rows == columns == 1:
        return PlannedImage((View(last),), (Tiles(0, 1),), whole)
    content: list[str | int] = []
    between = ""
    for row in range(1, rows + 1):
        for column in range(1, columns + 1):
            content += [f"{between}{layout.around}<row_{row}_col_{column}>", plan.tokens]
            between = ""
        between = "\n"
    content += [f"\n\n{whole[0]}", *whole[1:]]
    views = View(steps, rows, columns), View(last)
    return PlannedImage(views, (Tiles(0, rows * columns + 1),), tuple(content))


def _at_edge(size: Extent, edge: int) -> Extent:
    """Returns the size at which the longer edge is ``edge`` and the other one even."""
    height, width = size
    aspect = width / height
    if width >= height:
        short = int(edge / aspect)
        return max(short + short % 2, 1), edge
    short = int(edge * aspect)
    return edge, max(short + short % 2, 1)


def _bounded(size: Extent) -> Extent:
    height, width = size
    aspect = width / height
    if width >= height and width > MOST_SIDE:
        return max(int(MOST_SIDE / aspect), 1), MOST_SIDE
    if height > width and height > MOST_SIDE:
        return MOST_SIDE, max(int(MOST_SIDE * aspect), 1)
    return size


def _in_tiles(size: Extent, side: int) -> Extent:
    """Returns the size in whole tiles."""
    height, width = size
    aspect = width / height
    if width >= height:
        width = math.ceil(width / side) * side
        return math.ceil(int(width / aspect) / side) * side, width
    height = math.ceil(height / side) * side
    return height, math.ceil(int(height * aspect) / side) * side
