"""Tiles: an image of a window as LLaVA-OneVision takes it, the whole shrunk to one tile and then its cells.

Its tokens: those of the shrunk image, then the canvas row by row with the newline behind each row. Images have the
size of a canvas, so nothing is padded, and at most four cells, so nothing is interpolated.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from allrounder.demo.scenes import CELL, PATCH_PX, Window

TILE = CELL
TILE_PX = TILE * PATCH_PX
BASE_TOKENS = TILE * TILE


def cut(image: np.ndarray) -> np.ndarray:
    """Tiles of ``image`` uint8 [h, w, 3], uint8 [1 + cells, TILE_PX, TILE_PX, 3]; both sides are whole tiles."""
    height, width, _ = image.shape
    if height % TILE_PX or width % TILE_PX:
        raise ValueError(f"an image of {height}x{width} px is not made of tiles of {TILE_PX} px")
    base = np.asarray(Image.fromarray(image).resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC))
    cells = image.reshape(height // TILE_PX, TILE_PX, width // TILE_PX, TILE_PX, 3).swapaxes(1, 2)
    return np.concatenate([base[None], cells.reshape(-1, TILE_PX, TILE_PX, 3)])


def canvas_rows(cells: torch.Tensor, window: Window) -> torch.Tensor:
    """What belongs to the patches of each cell, [B, cells, patches, ...], in the rows of the canvas [B, h, w, ...]."""
    parts = cells.reshape(cells.shape[0], window.rows, window.columns, TILE, TILE, *cells.shape[3:])
    return parts.transpose(2, 3).reshape(cells.shape[0], window.rows * TILE, window.columns * TILE, *cells.shape[3:])


def arrange(tiles: torch.Tensor, newline: torch.Tensor, window: Window) -> torch.Tensor:
    """Image tokens [B, n, H] of what the projector made of the tiles, [B, 1 + cells, patches, H]."""
    canvas = canvas_rows(tiles[:, 1:], window)
    ends = newline.to(canvas.dtype).expand(*canvas.shape[:2], 1, -1)
    return torch.cat([tiles[:, 0], torch.cat([canvas, ends], 2).flatten(1, 2)], 1)


def image_tokens(window: Window) -> int:
    """How many image tokens an image of ``window`` has."""
    return BASE_TOKENS + window.rows * TILE * (window.columns * TILE + 1)
