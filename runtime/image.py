"""From what users call an image to uint8 RGB, and from many tiles to image tokens.

Conversions: the orientation of the camera (EXIF) is applied; transparent parts are laid on white; palette, grey,
CMYK and other modes become RGB; 16-bit grey keeps its upper 8 bits; of an animation the first frame is taken, or the
one at which the caller's own PIL image is.

A PIL image decodes late, from a file that it may share with others, and changes itself as it does. So images that
callers own are taken one at a time: decoded and copied under a lock, whatever the number of requests that hold them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from allrounder.engines.sessions import BFLOAT16, Session, Tensor
from allrounder.errors import BackendError, ImageInvalid
from allrounder.images.pixels import PreparedImages, TokenSources, token_sources
from allrounder.images.plan import ImagePlan
from allrounder.tensors import IMAGE_EMBEDS, TILES, TOKEN_ROWS, TOKEN_WEIGHTS

if TYPE_CHECKING:
    from PIL import Image

    ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray

__all__ = ["MAX_ASPECT", "MAX_PIXELS", "embed_in_pieces", "image_size", "load_decoders", "to_rgb"]

MAX_PIXELS = 1 << 26  # 67 million: twice what a phone takes, below what pillow calls a decompression bomb
MAX_ASPECT = 200  # longer side over the shorter; beyond it, resizing the shorter side blows up the longer one
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # of EXIF: width and height change places
_TAKING = threading.Lock()  # held while something is taken out of a caller's PIL image
_WANTED = "a path, a PIL image, or a uint8 array [height, width, 3] in RGB"


def to_rgb(image: ImageLike) -> np.ndarray:
    """Returns a copy of ``image`` as uint8 [height, width, 3], RGB, C-contiguous; may be called by any threads at once.

    What the caller does to ``image`` afterwards does not touch the copy. A PIL image is left loaded, at its frame.

    Raises:
        ImageInvalid: Not an image, unreadable, of the wrong dtype or shape, empty, or too large.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, str | os.PathLike):
        return _from_file(Path(image))
    from PIL import Image

    if isinstance(image, Image.Image):
        with _TAKING:
            own = _upright(image, "the image")
        return _pixels(own, "the image")
    raise ImageInvalid("not an image", got=type(image).__name__, wanted=_WANTED)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Returns height and width of what `to_rgb` makes of a file; its pixels are not decoded.

    Raises:
        ImageInvalid: Not an image, empty, or too large.
    """
    from PIL import Image

    with _decoding("the file is not an image that can be read", path), Image.open(path) as image:
        _check_size(image.width, image.height, path)
        turned = image.getexif().get(_ORIENTATION) in _TURNED
        return (image.width, image.height) if turned else (image.height, image.width)


def load_decoders() -> None:
    """Imports pillow and its usual formats, so that the first request need not."""
    from PIL import Image, ImageOps

    del ImageOps  # imported for its effect
    Image.preinit()


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ImageInvalid("not an image", got=f"{array.dtype} array {list(array.shape)}", wanted=_WANTED)
    _check_size(array.shape[1], array.shape[0], "the array")
    return np.array(array, order="C", subok=False)


def _from_file(path: Path) -> np.ndarray:
    from PIL import Image

    if not path.is_file():
        raise ImageInvalid("there is no such image file" if not path.exists() else "not a file", where=path)
    with _decoding("the file is not an image that can be read", path), Image.open(path) as image:
        return _pixels(_upright(image, path), path)


@contextmanager
def _decoding(what: str, where: object) -> Iterator[None]:
    try:
        yield
    except ImageInvalid:
        raise
    except Exception as error:  # pillow's decoders raise whatever hostile bytes make them raise
        raise ImageInvalid(what, where=where, got=error) from error


def _upright(image: Image.Image, where: object) -> Image.Image:
    """Returns a decoded copy of ``image``, turned as the camera says."""
    from PIL import ImageOps

    _check_size(image.width, image.height, where)  # before a pixel is decoded
    with _decoding("the image cannot be decoded", where):
        return ImageOps.exif_transpose(image)


def _pixels(image: Image.Image, where: object) -> np.ndarray:
    with _decoding("the image cannot be decoded", where):
        return np.array(_flatten(image, where), dtype=np.uint8)


def _flatten(image: Image.Image, where: object) -> Image.Image:
    """Returns ``image`` in mode RGB, transparent parts on white."""
    from PIL import Image

    if image.mode == "F":
        raise ImageInvalid("an image of floats has no known range", where=where, wanted="8 or 16 bits per channel")
    if image.mode.startswith("I"):  # 16-bit grey, which pillow would clip to white
        grey = np.asarray(image)
        if grey.size and (grey.min() < 0 or grey.max() > 0xFFFF):
            raise ImageInvalid("more than 16 bits of grey", where=where, got=f"{grey.min()} to {grey.max()}")
        return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("RGB")


def _check_size(width: int, height: int, where: object) -> None:
    got = f"{width} x {height}"
    if width < 1 or height < 1:
        raise ImageInvalid("the image is empty", where=where, got=got, wanted="at least one pixel")
    if width * height > MAX_PIXELS:
        raise ImageInvalid("the image is too large", where=where, got=got, wanted=f"up to {MAX_PIXELS} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageInvalid("the image is too narrow", where=where, got=got, wanted=f"up to {MAX_ASPECT} : 1")


def embed_in_pieces(vision: Session, plan: ImagePlan, images: PreparedImages, most_tiles: int) -> np.ndarray:
    """Returns ``image_embeds`` [N, H] of a prompt's images, whose tiles go through the vision graph a few at a time.

    Where that graph puts image tokens together of the tiles' rows, it is asked for the rows as they are, and they are
    put together here.
    """
    on_canvases, parts, last = TOKEN_ROWS in vision.inputs, [], np.empty(0)
    for first in range(0, len(images.tiles), most_tiles):
        tiles = images.tiles[first : first + most_tiles]
        feeds: dict[str, Tensor | np.ndarray] = {TILES: tiles}
        rows = len(tiles) * plan.tokens
        if on_canvases:
            feeds |= {TOKEN_ROWS: np.repeat(np.arange(rows + 1)[:, None], 4, axis=1)}  # the newline's is behind them
            feeds |= {TOKEN_WEIGHTS: np.tile(np.array([1, 0, 0, 0], np.float32), (rows + 1, 1))}
        outputs = vision.run(feeds)
        found = outputs[IMAGE_EMBEDS].numpy().copy()  # which may lie in the outputs' memory
        if found.ndim != 2 or len(found) != rows + on_canvases:
            raise BackendError("a graph does not give what it should", where=IMAGE_EMBEDS, got=found.shape, wanted=rows)
        parts.append(found[:rows])
        last = found[rows:]
    table = np.concatenate([*parts, last])
    return _put_together(table, token_sources(plan, images.planned)) if on_canvases else table


def _put_together(table: np.ndarray, sources: TokenSources) -> np.ndarray:
    if (sources.weights[:, 0] == 1).all():
        return table[sources.rows[:, 0]]
    wide = (table.view(np.uint16).astype(np.uint32) << 16).view(np.float32) if table.dtype == BFLOAT16 else table
    summed = np.zeros((len(sources.rows), table.shape[1]), np.float32)
    for rows, weights in zip(sources.rows.T, sources.weights.T, strict=True):
        summed += weights[:, None] * wide[rows]
    if table.dtype != BFLOAT16:
        return summed.astype(table.dtype)
    bits = summed.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).view(BFLOAT16)  # to the nearest, ties to even
