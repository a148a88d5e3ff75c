"""Drawing: a scene becomes an image, the same one every time."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from allrounder.demo.digits import digit_images
from allrounder.demo.scenes import (
    DIGIT_PATCHES,
    KINDS,
    PATCH_PX,
    SHAPE_PATCHES,
    Digit,
    Scene,
    Shape,
    Split,
    scene_generator,
)

INKS = np.array(
    [(220, 40, 40), (40, 180, 60), (50, 80, 230), (235, 215, 50), (160, 60, 190), (245, 140, 30)], np.float32
)
SHAPE_PX = SHAPE_PATCHES * PATCH_PX
DIGIT_PX = DIGIT_PATCHES * PATCH_PX
NOISE = 4.0
GRAIN_PX = 2
BLOTCH_PX = 16


def draw(scene: Scene) -> np.ndarray:
    """The image of ``scene``, uint8 RGB [h, w, 3] of its window's size."""
    rng = scene_generator(scene.split, scene.seed, 1)
    height, width = scene.window.height_px, scene.window.width_px
    canvas = _texture(rng, height, width)
    for shape in scene.shapes:
        _draw_shape(canvas, shape, rng)
    for digit in scene.digits:
        _draw_digit(canvas, digit, scene, rng)
    grain = NOISE * rng.standard_normal((height // GRAIN_PX, width // GRAIN_PX, 3), np.float32)
    canvas += np.repeat(np.repeat(grain, GRAIN_PX, 0), GRAIN_PX, 1)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """Images uint8 [B, h, w, 3] as the stock processor normalises them, float32 [B, 3, h, w] in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A dim two-tone background of soft blotches and stripes, float32 [height, width, 3]."""
    coarse = rng.random((height // BLOTCH_PX + 1, width // BLOTCH_PX + 1), np.float32)
    blotches = np.repeat(np.repeat(coarse, BLOTCH_PX, 0), BLOTCH_PX, 1)[:height, :width]
    down, across = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    angle, pitch = rng.random() * np.pi, 6 + 20 * rng.random()
    wave = np.cos(angle) * down[:, None] + np.sin(angle) * across[None, :]
    stripes = 0.5 + 0.5 * np.sin(wave * np.float32(2 * np.pi / pitch))
    mix = (0.5 * blotches + 0.5 * stripes).astype(np.float32)[..., None]
    low, high = rng.uniform(20, 90, (2, 3)).astype(np.float32)
    return low + (high - low) * mix


def _draw_shape(canvas: np.ndarray, shape: Shape, rng: np.random.Generator) -> None:
    size = int(rng.integers(20, SHAPE_PX + 1))
    shift = rng.integers(0, SHAPE_PX - size + 1, 2)
    top, left = PATCH_PX * shape.row + int(shift[0]), PATCH_PX * shape.column + int(shift[1])
    ink = INKS[shape.colour] + rng.uniform(-18, 18, 3).astype(np.float32)
    _blend(canvas, top, left, _shape_mask(shape.kind, size), ink)


def _draw_digit(canvas: np.ndarray, digit: Digit, scene: Scene, rng: np.random.Generator) -> None:
    images = digit_images(scene.split)[digit.value]
    image = images[digit.image % len(images)]
    if scene.split is Split.TRAIN:
        mask = _another_hand(image, rng)
    else:
        across, down = (_interpolation(rng.uniform(0.9, 1.1), rng.uniform(-0.4, 0.4)) for _ in range(2))
        mask = down @ image @ across.T
    top, left = PATCH_PX * digit.row, PATCH_PX * digit.column
    ink = rng.uniform(225, 255, 3).astype(np.float32)
    _blend(canvas, top, left, mask, ink)


def _blend(canvas: np.ndarray, top: int, left: int, mask: np.ndarray, ink: np.ndarray) -> None:
    block = canvas[top : top + mask.shape[0], left : left + mask.shape[1]]
    block += mask[..., None] * (ink - block)


def _interpolation(scale: float, shift: float) -> np.ndarray:
    """Linear interpolation of 8 digit pixels, scaled and shifted (in digit pixels), as a matrix [DIGIT_PX, 8]."""
    place = (np.arange(DIGIT_PX, dtype=np.float32) + 0.5) * np.float32(8 / DIGIT_PX) - 4.0
    place = place / np.float32(scale) - np.float32(shift) + 3.5
    return np.clip(1 - np.abs(place[:, None] - np.arange(8, dtype=np.float32)), 0, 1)


def _another_hand(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``image`` [8, 8] as another hand may have written it, turned, sheared, scaled, thicker: [DIGIT_PX, DIGIT_PX].

    Only training sees it: some 125 handwritings per digit are few, and a tower learns them by heart.
    """
    turn, shear = rng.uniform(-0.26, 0.26), rng.uniform(-0.2, 0.2)
    tall, wide = rng.uniform(0.85, 1.15, 2)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = rotation @ np.array([[1 / tall, 0.0], [shear, 1 / wide]])
    place = (np.arange(DIGIT_PX) + 0.5) * (8 / DIGIT_PX) - 4.0
    grid = np.stack(np.meshgrid(place, place, indexing="ij"), -1).reshape(-1, 2)
    source = grid @ matrix.T - rng.uniform(-0.5, 0.5, 2) + 3.5
    down, across = (np.clip(1 - np.abs(source[:, axis, None] - np.arange(8)), 0, 1) for axis in range(2))
    mask = np.einsum("pi,ij,pj->p", down, image, across) ** rng.uniform(0.7, 1.4)
    return mask.reshape(DIGIT_PX, DIGIT_PX).astype(np.float32)


@cache
def _shape_mask(kind: int, size: int) -> np.ndarray:
    """Coverage of one shape in a square of ``size`` px, float32 [size, size] in 0..1, from 4x4 samples per pixel."""
    fine = 4 * size
    axis = (np.arange(fine) + 0.5) / fine * 2 - 1
    y, x = axis[:, None], axis[None, :]
    radius = np.sqrt(x * x + y * y)
    shapes = {
        "circle": radius < 0.95,
        "square": np.maximum(abs(x), abs(y)) < 0.85,
        "triangle": (y < 0.9) & (abs(x) * 1.9 < y + 0.9),
        "cross": np.minimum(abs(x), abs(y)) + 0 * radius < 0.28,
        "ring": (radius < 0.95) & (radius > 0.55),
        "diamond": abs(x) + abs(y) < 0.98,
    }
    inside = np.broadcast_to(shapes[KINDS[kind]], (fine, fine)).astype(np.float32)
    return inside.reshape(size, 4, size, 4).mean((1, 3))
