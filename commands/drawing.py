"""The image of ``allrounder inspect``: what each version keeps of an image and of the layers.

One panel per version: the image as the model sees it, dropped patches faded, and the kept layers as a strip. Image
tokens must be the cells of a square grid, row by row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from allrounder.commands.report.samples import Kept, ask_versions
from allrounder.engines.bundle.reader import OpenBundle
from allrounder.errors import InputInvalid, UnknownVersion
from allrounder.manifest import Entry, Model
from allrounder.prompts import Prompt
from allrounder.runtime.choice import by_faithfulness

__all__ = ["write_image"]

_SIDE, _MARGIN, _CAPTION, _STRIP = 384, 12, 40, 26  # pixels
_FADE = 0.8  # how far a dropped patch goes towards the background
_INK, _PAPER, _GRID, _KEPT = (30, 30, 30), (255, 255, 255), (90, 90, 90), (38, 98, 168)


def write_image(
    bundle: OpenBundle, image: Path, question: str, out: Path, versions: Sequence[str] | None = None
) -> list[str]:
    """Asks the question with each version and writes one image of all of them; returns a line of text for each.

    What is kept may depend on the question. The ending of ``out`` gives the format.

    Raises:
        UnknownVersion: The bundle lacks one of ``versions``.
        InputInvalid: The image tokens are no square grid, or ``out`` cannot be written.
        ImageInvalid: ``image`` is no image.
    """
    plan = bundle.manifest.model.images
    if plan.most_tiles > 1 or math.isqrt(plan.tokens) ** 2 != plan.tokens:
        got, wanted = f"{plan.layout}, {plan.tokens} tokens of a tile", "one square grid of tokens for an image"
        raise InputInvalid("the image tokens of this model cannot be drawn", got=got, wanted=wanted)
    (sample,) = ask_versions(bundle, _entries(bundle, versions), [Prompt(image, question, None, "")])
    images = [_panel(bundle.manifest.model, kept, sample.image) for kept in sample.versions]
    whole = Image.new("RGB", (sum(each.width for each in images), images[0].height), _PAPER)
    left = 0
    for drawn in images:
        whole.paste(drawn, (left, 0))
        left += drawn.width
    try:
        whole.save(out)
    except (OSError, ValueError) as error:
        raise InputInvalid("the image cannot be written", where=out, got=error, wanted="such as kept.png") from error
    return [f"{_title(bundle.manifest.model, kept)}: {_line(kept)!r}" for kept in sample.versions]


def _title(model: Model, kept: Kept) -> str:
    return (
        f"{kept.version}: {len(kept.keep_indices)} of {model.images.tokens} tokens, "
        f"{len(kept.kept_layers)} of {model.layers} layers"
    )


def _line(kept: Kept) -> str:
    return " ".join(kept.answer.split())


def _panel(model: Model, kept: Kept, image: Image.Image) -> Image.Image:
    """Returns one version's image: caption, image with dropped patches faded, kept layers."""
    grid = math.isqrt(model.images.tokens)
    cell = max(4, _SIDE // grid)
    side = cell * grid
    drawn = Image.new("RGB", (side + 2 * _MARGIN, _CAPTION + side + _STRIP + 2 * _MARGIN), _PAPER)
    ink = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(size=13)
    ink.text((_MARGIN, 6), _title(model, kept), _INK, font)
    ink.text((_MARGIN, 22), _fitting(f"\N{LEFT DOUBLE QUOTATION MARK}{_line(kept)}", side, ink, font), _GRID, font)
    drawn.paste(_faded(image, kept.keep_indices, grid, side), (_MARGIN, _CAPTION))
    for index in kept.keep_indices:
        row, column = divmod(index, grid)
        left, top = _MARGIN + column * cell, _CAPTION + row * cell
        ink.rectangle((left, top, left + cell, top + cell), outline=_GRID)
    top = _CAPTION + side + _MARGIN
    for layer in range(model.layers):
        left, right = (_MARGIN + side * edge // model.layers for edge in (layer, layer + 1))
        fill = _KEPT if layer in kept.kept_layers else None
        ink.rectangle((left, top, right - 2, top + _STRIP - _MARGIN), fill=fill, outline=_KEPT)
    return drawn


def _fitting(quote: str, width: int, ink: ImageDraw.ImageDraw, font: Any) -> str:
    """Returns a quotation with its closing mark, cut so that it takes at most ``width`` pixels."""
    mark, dots = "\N{RIGHT DOUBLE QUOTATION MARK}", "\N{HORIZONTAL ELLIPSIS}"
    text = quote + mark
    while ink.textlength(text, font) > width:
        quote = quote[:-1]
        text = quote + dots + mark
    return text


def _faded(image: Image.Image, kept: Iterable[int], grid: int, side: int) -> Image.Image:
    """Returns the image at ``side`` pixels, what is not kept faded to grey and towards white."""
    image = image.resize((side, side), Image.Resampling.LANCZOS)
    faded = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, _PAPER), _FADE)
    mask = np.zeros(grid**2, np.uint8)
    mask[list(kept)] = 255
    cells = Image.fromarray(mask.reshape(grid, grid)).resize((side, side), Image.Resampling.NEAREST)
    return Image.composite(image, faded, cells)


def _entries(bundle: OpenBundle, versions: Sequence[str] | None) -> list[Entry]:
    """Returns the most faithful entry of each version that is asked for, in the order asked, or the bundle's."""
    entries = bundle.manifest.entries
    best: dict[str, Entry] = {}
    for index in by_faithfulness(entries):
        best.setdefault(entries[index].version, entries[index])
    names = versions or list(dict.fromkeys(entry.version for entry in entries))
    missing = [name for name in names if name not in best]
    if missing:
        raise UnknownVersion(f"the bundle has no version {missing[0]!r}", wanted=f"of {', '.join(best)}")
    return [best[name] for name in names]
