"""The image plan of a model, as a bundle holds it: plain data, which every runtime follows."""

from __future__ import annotations

import math
from typing import Annotated, Final, Literal

from msgspec import Meta

from allrounder.records import Positive, Record

__all__ = [
    "FILTERS",
    "MOST_SIDE",
    "MOST_TOKENS",
    "Canvases",
    "Color",
    "Filter",
    "Fixed",
    "ImagePlan",
    "Layout",
    "LongestEdge",
    "NearestAspect",
]

Filter = Literal["bilinear", "bicubic", "lanczos"]  # Pillow's
FILTERS: Final[tuple[Filter, ...]] = ("bilinear", "bicubic", "lanczos")
MOST_SIDE: Final = 4096  # of an image that is resized by its longest edge, pixels
MOST_TOKENS: Final = 1 << 20  # of one image

Byte = Annotated[int, Meta(ge=0, le=255)]
Color = tuple[Byte, Byte, Byte]
Size = tuple[Positive, Positive]  # height, width


class Fixed(Record, frozen=True, kw_only=True, tag="fixed", tag_field="kind"):
    """One tile of each image."""

    square: Color | None = None  # pad to a square of this colour first
    shortest: Positive | None = (
        None  # resize the shorter edge to this and cut the middle out; None: to the tile at once
    )


class Canvases(Record, frozen=True, kw_only=True, tag="canvases", tag_field="kind"):
    """The whole image as one tile, then the tiles of the canvas that fits it best (LLaVA-NeXT, LLaVA-OneVision).

    Image tokens of the canvas stand row by row, those of the padding left out, a learned one behind each row.
    Source: ``get_image_patches`` and ``pack_image_features`` of transformers' ``llava_next`` and ``llava_onevision``.
    """

    canvases: tuple[Size, ...]  # pixels, multiples of the tile
    most: Positive | None = None  # tiles' worth of tokens, beyond which the canvas is interpolated down
    several: Color | None = (
        None  # where a prompt has several images, each is one tile, padded to a square of this colour
    )


class NearestAspect(Record, frozen=True, kw_only=True, tag="nearest-aspect", tag_field="kind"):
    """The grid of tiles of the nearest aspect ratio, then the whole image as one tile (InternVL).

    Source: ``crop_image_to_patches`` of transformers' ``got_ocr2``.
    """

    least: Positive  # tiles
    most: Positive
    before: str  # text before the image tokens: "<img>"
    after: str


class LongestEdge(Record, frozen=True, kw_only=True, tag="longest-edge", tag_field="kind"):
    """The image at a stated longest edge, in tiles with marks between them, then whole as one tile (Idefics3, SmolVLM).

    Source: ``_preprocess`` and ``get_image_prompt_string`` of transformers' ``idefics3``.
    """

    edge: Positive  # pixels
    split: bool  # False: the whole image alone
    around: str  # "<fake_token_around_image>": before each tile and at the end
    whole: str  # "<global-img>": marks the whole image


Layout = Fixed | Canvases | NearestAspect | LongestEdge


class ImagePlan(Record, frozen=True, kw_only=True):
    """How an image becomes tiles of S x S pixels, each of which the vision tower turns into as many image tokens."""

    size: Positive  # S
    tokens: Positive  # of one tile
    filter: Filter
    scale: float  # of bytes, before mean and deviation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layout: Layout

    @property
    def most_tokens(self) -> int:
        """As many image tokens as one image can give, or a few more."""
        layout = self.layout
        if not isinstance(layout, Canvases):
            return self.most_tiles * self.tokens
        side = math.isqrt(self.tokens)
        grids = [(height // self.size * side, width // self.size * side) for height, width in layout.canvases]
        most = math.inf if layout.most is None else 1.21 * layout.most * self.tokens  # of a canvas, interpolated
        return self.tokens + max(int(min(rows * columns, most)) + rows for rows, columns in grids)

    @property
    def most_tiles(self) -> int:
        """The largest number of tiles that one image can give."""
        match self.layout:
            case Fixed():
                return 1
            case Canvases(canvases=canvases):
                return 1 + max(height * width for height, width in canvases) // self.size**2
            case NearestAspect(most=most):
                return most + (most > 1)
            case LongestEdge(edge=edge, split=split):
                side = -(-min(edge + 1, MOST_SIDE) // self.size) if split else 1
                return side * side + (side > 1)
