"""Dense labels: what every patch of a scene shows. They teach the tower to see and the decoder to read.

Channels: colour (0 none, then ``COLOURS``, last the white of digits), kind (0 none, then ``KINDS``, then ten digits),
cell (0..8), slot (0 none, then the place in the row of digits), anchor (1 on one patch of each object).
"""

from __future__ import annotations

import numpy as np

from allrounder.demo.scenes import (
    CELL,
    CELLS,
    COLOURS,
    DIGIT_PATCHES,
    GRID,
    KINDS,
    MAX_DIGITS,
    PLACES,
    SHAPE_PATCHES,
    Scene,
)

CHANNELS = (len(COLOURS) + 2, 1 + len(KINDS) + 10, CELLS * CELLS, 1 + MAX_DIGITS, 2)
WHITE = len(COLOURS) + 1
FIRST_DIGIT = 1 + len(KINDS)
COARSE = 6
COARSE_STEP = GRID // COARSE


def label_words(channel: int, value: int) -> str:
    """The words that say what ``value`` of ``channel`` is, each after a blank as inside a sentence; may be empty."""
    if channel == 0 and 0 < value < WHITE:
        return f" {COLOURS[value - 1]}"
    if channel == 1 and value >= FIRST_DIGIT:
        return str(value - FIRST_DIGIT)
    if channel == 1 and value > 0:
        return f" {KINDS[value - 1]}"
    return f" {PLACES[value]}" if channel == 2 else ""


def dense_labels(scene: Scene) -> np.ndarray:
    """Labels of all patches, int64 [rows, columns, 5] of the scene's window."""
    window = scene.window
    labels = np.zeros((CELL * window.rows, CELL * window.columns, len(CHANNELS)), np.int64)
    cells = np.array(window.cells).reshape(window.rows, window.columns)
    labels[..., 2] = np.repeat(np.repeat(cells, CELL, 0), CELL, 1)
    for shape in scene.shapes:
        block = labels[shape.row : shape.row + SHAPE_PATCHES, shape.column : shape.column + SHAPE_PATCHES]
        block[..., [0, 1, 2]] = (1 + shape.colour, 1 + shape.kind, shape.cell)
        block[1, 1, 4] = 1
    for slot, digit in enumerate(scene.digits):
        block = labels[digit.row : digit.row + DIGIT_PATCHES, digit.column : digit.column + DIGIT_PATCHES]
        block[..., [0, 1, 2, 3]] = (WHITE, FIRST_DIGIT + digit.value, digit.cell, 1 + slot)
        block[0, 0, 4] = 1
    return labels


def coarse_labels(scene: Scene) -> np.ndarray:
    """A label image of 6x6, int64 [6, 6, 5]: every object two squares high and one wide, the upper one its anchor."""
    labels = np.zeros((COARSE, COARSE, len(CHANNELS)), np.int64)
    place = np.arange(COARSE) * CELLS // COARSE
    labels[..., 2] = CELLS * place[:, None] + place[None, :]
    for shape in scene.shapes:
        row, column = 2 * (shape.cell // CELLS), 2 * (shape.cell % CELLS) + shape.column % 2
        labels[row : row + 2, column, :3] = (1 + shape.colour, 1 + shape.kind, shape.cell)
        labels[row, column, 4] = 1
    for slot, digit in enumerate(scene.digits):
        row = 2 * (digit.row // CELL)
        column = 2 * min(scene.digits[0].cell % CELLS, 1) + slot
        labels[row : row + 2, column, 0] = WHITE
        labels[row : row + 2, column, 1] = FIRST_DIGIT + digit.value
        labels[row : row + 2, column, 3] = 1 + slot
        labels[row, column, 4] = 1
    return labels


def coarse_positions() -> np.ndarray:
    """The patch (0..575) in the middle of every square of the coarse label image, int64 [36]."""
    middle = np.arange(COARSE) * COARSE_STEP + COARSE_STEP // 2
    return (middle[:, None] * GRID + middle[None, :]).reshape(-1)
