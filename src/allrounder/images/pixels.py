"""From RGB images to tiles, by Pillow, as the stock processors do it; and where image tokens come from in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from allrounder.images.plan import Filter, ImagePlan
from allrounder.images.planning import Crop, Grid, Newline, Pad, PlannedImage, Resize, Step, Tiles, View, plan_images

__all__ = ["PreparedImages", "TokenSources", "pixel_values", "prepare_images", "prepare_planned", "token_sources"]


class TokenSources(NamedTuple):
    """Each image token as a weighted sum of rows: those of all tiles one after the other, and the newline last."""

    rows: np.ndarray  # int64 [N, 4]
    weights: np.ndarray  # float32 [N, 4]


class PreparedImages(NamedTuple):
    """The images of one prompt, as the vision graph takes them."""

    planned: tuple[PlannedImage, ...]
    tiles: np.ndarray  # uint8 [tiles of all images, S, S, 3]


def prepare_images(plan: ImagePlan, images: Sequence[np.ndarray]) -> PreparedImages:
    """Returns the tiles of a prompt's images, each uint8 [height, width, 3].

    Raises:
        ImageInvalid: An image is too narrow for the plan.
    """
    return prepare_planned(plan, plan_images(plan, [image.shape[:2] for image in images]), images)


def prepare_planned(plan: ImagePlan, planned: Sequence[PlannedImage], images: Sequence[np.ndarray]) -> PreparedImages:
    """Returns the tiles of a prompt's images that were planned, each uint8 [height, width, 3]."""
    none = np.zeros((0, plan.size, plan.size, 3), np.uint8)
    tiles = [_view(plan, view, rgb) for each, rgb in zip(planned, images, strict=True) for view in each.views]
    return PreparedImages(tuple(planned), np.concatenate([none, *tiles]))


def pixel_values(plan: ImagePlan, tiles: np.ndarray) -> np.ndarray:
    """Returns what the stock processor gives to its model of tiles: float32 [tiles, 3, S, S], rescaled, normalised."""
    values = tiles.transpose(0, 3, 1, 2).astype(np.float32) * np.float32(plan.scale)
    mean, std = (np.array(each, np.float32).reshape(3, 1, 1) for each in (plan.mean, plan.std))
    return (values - mean) / std


def _view(plan: ImagePlan, view: View, rgb: np.ndarray) -> np.ndarray:
    for step in view.steps:
        rgb = _done(step, rgb, plan.filter)
    side = plan.size
    grid = rgb.reshape(view.rows, side, view.columns, side, 3).swapaxes(1, 2)
    return grid.reshape(-1, side, side, 3)


def _done(step: Step, rgb: np.ndarray, filter_: Filter) -> np.ndarray:
    match step:
        case Resize(height, width):
            from PIL import Image

            if rgb.shape[:2] == (height, width):
                return rgb
            return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling[filter_.upper()]))
        case Crop(top, left, height, width):
            return rgb[top : top + height, left : left + width]
        case Pad(top, bottom, left, right, color):
            height, width = rgb.shape[:2]
            padded = np.empty((top + height + bottom, left + width + right, 3), np.uint8)
            padded[...] = color
            padded[top : top + height, left : left + width] = rgb
            return padded


def token_sources(plan: ImagePlan, images: Sequence[PlannedImage]) -> TokenSources:
    """Returns where the image tokens of one prompt come from.

    Rows are counted over the tiles of all images, ``plan.tokens`` rows each; behind them is the newline's.
    """
    newline = sum(image.tiles for image in images) * plan.tokens
    parts: list[TokenSources] = []
    first = 0
    for image in images:
        parts += [_source(plan, source, first, newline) for source in image.sources]
        first += image.tiles
    return TokenSources(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _source(plan: ImagePlan, source: Tiles | Grid | Newline, first: int, newline: int) -> TokenSources:
    match source:
        case Newline():
            return _single(np.array([newline]))
        case Tiles(tile, count):
            return _single(np.arange((first + tile) * plan.tokens, (first + tile + count) * plan.tokens))
        case Grid():
            return _grid(plan, source, first, newline)


def _single(rows: np.ndarray) -> TokenSources:
    weights = np.zeros((len(rows), 4), np.float32)
    weights[:, 0] = 1
    return TokenSources(np.repeat(rows[:, None], 4, axis=1).astype(np.int64), weights)


def _grid(plan: ImagePlan, grid: Grid, first: int, newline: int) -> TokenSources:
    side = math.isqrt(plan.tokens)
    tile_rows = np.arange(grid.rows * grid.columns * plan.tokens).reshape(grid.rows, grid.columns, side, side)
    whole = tile_rows.swapaxes(1, 2).reshape(grid.rows * side, grid.columns * side) + (first + grid.first) * plan.tokens
    (above, before), (height, width) = grid.cut, grid.size
    kept = whole[above : len(whole) - above, before : whole.shape[1] - before]
    (top, bottom, down), (left, right, across) = (_between(*pair) for pair in zip(kept.shape, grid.size, strict=True))
    corners = [kept[np.ix_(row, column)] for row in (top, bottom) for column in (left, right)]
    shares = [
        down_share[:, None] * across_share for down_share in (1 - down, down) for across_share in (1 - across, across)
    ]
    rows = np.full((height, width + 1, 4), newline, np.int64)
    weights = np.zeros((height, width + 1, 4), np.float32)
    rows[:, :width], weights[:, :width] = np.stack(corners, axis=-1), np.stack(shares, axis=-1)
    weights[:, width, 0] = 1
    return TokenSources(rows.reshape(-1, 4), weights.reshape(-1, 4))


def _between(there: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns, for bilinear interpolation, the places before and behind each wanted one and the share of the latter.

    As ``torch.nn.functional.interpolate`` with ``align_corners=False`` does it, in float32.
    """
    scale = np.float32(there) / np.float32(max(wanted, 1))
    place = np.maximum((np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5), np.float32(0))
    before = place.astype(np.int64)
    return before, np.minimum(before + 1, there - 1), place - before.astype(np.float32)
