"""Scenes: what is in a demo image, drawn by chance from a seed.

Units: a *patch* is 8 px, a *cell* is 8x8 patches, the world is 3x3 cells (24x24 patches, 192 px). An image shows the
world, or a *window* of 1 to 4 cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

PATCH_PX = 8
GRID = 24
IMAGE_PX = PATCH_PX * GRID
CELLS = 3
CELL = GRID // CELLS
HALF = CELL // 2
SHAPE_PATCHES = 3
DIGIT_PATCHES = 2
DIGIT_PITCH = 3
MAX_DIGITS = 4

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
KINDS = ("circle", "square", "triangle", "cross", "ring", "diamond")
PLACES = (
    "top left",
    "top middle",
    "top right",
    "middle left",
    "center",
    "middle right",
    "bottom left",
    "bottom middle",
    "bottom right",
)


class Split(Enum):
    """Disjoint worlds: each has its own scene seeds and its own handwritten digits."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


@dataclass(frozen=True)
class Window:
    """An image of ``rows`` x ``columns`` cells."""

    rows: int
    columns: int

    @property
    def cells(self) -> tuple[int, ...]:
        """Where in ``PLACES`` the names of its cells stand, row by row: one of one is the middle one."""
        return tuple(CELLS * row + column for row in NAMED[self.rows] for column in NAMED[self.columns])

    @property
    def height_px(self) -> int:
        """Height of its image."""
        return self.rows * CELL * PATCH_PX

    @property
    def width_px(self) -> int:
        """Width of its image."""
        return self.columns * CELL * PATCH_PX


NAMED = {1: (1,), 2: (0, 2), 3: (0, 1, 2)}
WORLD = Window(CELLS, CELLS)
WINDOWS = (Window(1, 1), Window(1, 2), Window(2, 1), Window(1, 3), Window(3, 1), Window(2, 2))


@dataclass(frozen=True)
class Shape:
    """One coloured shape inside a block of 3x3 patches whose upper left patch is (``row``, ``column``)."""

    kind: int
    colour: int
    cell: int
    row: int
    column: int


@dataclass(frozen=True)
class Digit:
    """One handwritten digit inside a block of 2x2 patches; ``image`` picks its handwriting inside the split."""

    value: int
    image: int
    cell: int
    row: int
    column: int


@dataclass(frozen=True)
class Scene:
    """What one image shows; ``seed`` also fixes texture, jitter and noise of its drawing."""

    split: Split
    seed: int
    shapes: tuple[Shape, ...]
    digits: tuple[Digit, ...]
    window: Window = WORLD


def scene_generator(split: Split, seed: int, stream: int) -> np.random.Generator:
    """The random stream of one scene; streams: 0 content, 1 drawing, 2 questions, 3 ease."""
    return np.random.default_rng((split.value, seed, stream))


def window_of(seed: int) -> Window:
    """The window of scene ``seed`` where all take turns."""
    return WINDOWS[seed % len(WINDOWS)]


def sample_scene(split: Split, seed: int, window: Window = WORLD) -> Scene:
    """Draw the content of scene ``seed`` of ``split``: 3 to 6 shapes and one row of 3 or 4 digits.

    A ``window`` of the world has 1 to 6 shapes and a row of 2 or 3 digits, at most two of these in one cell.
    """
    rng = scene_generator(split, seed, 0)
    if window != WORLD:
        return _sample_window(rng, split, seed, window)
    band, start = int(rng.integers(CELLS)), int(rng.integers(CELLS - 1))
    taken = {CELLS * band + start, CELLS * band + start + 1}
    digits = _sample_digits(rng, band, start)
    free = [cell for cell in range(CELLS * CELLS) if cell not in taken]
    cells = rng.permutation(free)[: int(rng.integers(3, 7))]
    pairs = rng.permutation(len(KINDS) * len(COLOURS))[: len(cells)]
    shapes = []
    for cell, pair in sorted(zip(cells.tolist(), pairs.tolist(), strict=True)):
        row = CELL * (cell // CELLS) + int(rng.integers(CELL - SHAPE_PATCHES + 1))
        column = CELL * (cell % CELLS) + int(rng.integers(CELL - SHAPE_PATCHES + 1))
        shapes.append(Shape(pair // len(COLOURS), pair % len(COLOURS), cell, row, column))
    return Scene(split, seed, tuple(shapes), digits)


def _sample_window(rng: np.random.Generator, split: Split, seed: int, window: Window) -> Scene:
    """Shapes and digits in the upper and lower halves of the cells of ``window``."""
    cells = len(window.cells)
    halves = rng.permutation(2 * cells).tolist()
    count = int(rng.integers(max(1, cells - 1), min(6, 2 * cells - 1) + 1))
    corners = [(half // 2, *_corner(half, window)) for half in sorted(halves[1 : 1 + count])]
    pairs = rng.permutation(len(KINDS) * len(COLOURS))[:count].tolist()
    shapes = []
    for (cell, top, left), pair in zip(corners, pairs, strict=True):
        row = top + int(rng.integers(HALF - SHAPE_PATCHES + 1))
        column = left + int(rng.integers(CELL - SHAPE_PATCHES + 1))
        shapes.append(Shape(pair // len(COLOURS), pair % len(COLOURS), window.cells[cell], row, column))
    top, left = _corner(halves[0], window)
    row, length = top + int(rng.integers(HALF - DIGIT_PATCHES + 1)), int(rng.integers(2, 4))
    first = left + int(rng.integers(CELL - DIGIT_PITCH * length + 2))
    digits = tuple(
        Digit(value, image, window.cells[halves[0] // 2], row, first + DIGIT_PITCH * slot)
        for slot, (value, image) in enumerate(rng.integers((10, 1 << 30), size=(length, 2)).tolist())
    )
    return Scene(split, seed, tuple(shapes), digits, window)


def _corner(half: int, window: Window) -> tuple[int, int]:
    """Row and column of the upper left patch of a half: 0 and 1 are those of the first cell, 2 and 3 of the next."""
    row, column = divmod(half // 2, window.columns)
    return CELL * row + HALF * (half % 2), CELL * column


def easier(scene: Scene) -> Scene:
    """For lessons: the same scene, one time in three with fewer shapes, by its seed."""
    rng = scene_generator(scene.split, scene.seed, 3)
    kept = (1, 2, 3, 4, 6, 6, 6, 6, 6, 6, 6, 6)[int(rng.integers(12))]
    order = rng.permutation(len(scene.shapes))[:kept]
    return replace(scene, shapes=tuple(scene.shapes[place] for place in sorted(order.tolist())))


def _sample_digits(rng: np.random.Generator, band: int, start: int) -> tuple[Digit, ...]:
    """A row of digits inside the two neighbouring cells (``band``, ``start``) and (``band``, ``start`` + 1)."""
    count = int(rng.integers(3, MAX_DIGITS + 1))
    width = DIGIT_PITCH * count - 1
    row = CELL * band + int(rng.integers(CELL - DIGIT_PATCHES + 1))
    first = CELL * start + int(rng.integers(2 * CELL - width + 1))
    digits = []
    for slot in range(count):
        column = first + DIGIT_PITCH * slot
        value, image = int(rng.integers(10)), int(rng.integers(1 << 30))
        digits.append(Digit(value, image, CELLS * band + column // CELL, row, column))
    return tuple(digits)
