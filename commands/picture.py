"""The picture of ``allrounder inspect``: what each version keeps of an image and of the layers.

What it is: one panel per version: the image as the model sees it, dropped patches faded, and the layer plan as a strip.
What it knows: that visual tokens are the cells of a square grid, row by row.
What it does not know: how they are chosen.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from allrounder.bundle import OpenBundle
from allrounder.errors import InputInvalid, UnknownVersion
from allrounder.manifest import Entry
from allrounder.runtime.answer import Answer
from allrounder.runtime.choice import by_faithfulness
from allrounder.runtime.engine import Engine, open_engines
from allrounder.runtime.image import to_rgb
from allrounder.runtime.runtime import Runtime

__all__ = ["as_seen", "draw_panel", "write_picture"]

_SIDE, _MARGIN, _CAPTION, _STRIP = 384, 12, 40, 26  # pixels
_FADE = 0.8  # how far a dropped patch goes towards the background
_INK, _PAPER, _GRID, _KEPT = (30, 30, 30), (255, 255, 255), (90, 90, 90), (38, 98, 168)
_ANSWER_TOKENS = 32


class _Panel(NamedTuple):
    title: str
    answer: str
    image: Image.Image
    grid: int
    kept: Collection[int]
    plan: Collection[int]
    layers: int


def write_picture(
    bundle: OpenBundle, image: Path, question: str, out: Path, versions: Sequence[str] | None = None
) -> list[str]:
    """Asks the question with each version and writes one picture of all of them; returns a line of text for each.

    Args:
        bundle: An open bundle.
        image: The picture's file.
        question: What is asked; what is kept may depend on it.
        out: Where to write; the ending gives the format.
        versions: Which; None takes all.

    Raises:
        UnknownVersion: The bundle lacks one of ``versions``.
        InputInvalid: The visual tokens are no square grid, or ``out`` cannot be written.
        ImageInvalid: ``image`` is no picture.
    """
    grid = math.isqrt(bundle.manifest.model.visual_tokens)
    if grid * grid != bundle.manifest.model.visual_tokens:
        raise InputInvalid("the visual tokens are no square grid", got=bundle.manifest.model.visual_tokens)
    rgb = to_rgb(image)
    panels = []
    for engine in open_engines(bundle, _entries(bundle, versions)):
        answer = Runtime(engine).generate(
            rgb, question, max_new_tokens=min(_ANSWER_TOKENS, bundle.manifest.limits.new_tokens)
        )
        panels.append(_panel(engine, answer, as_seen(engine, rgb), grid))
    pictures = [draw_panel(panel) for panel in panels]
    whole = Image.new("RGB", (sum(each.width for each in pictures), pictures[0].height), _PAPER)
    left = 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width
    try:
        whole.save(out)
    except (OSError, ValueError) as error:
        raise InputInvalid("the picture cannot be written", where=out, got=error, wanted="such as kept.png") from error
    return [f"{panel.title}: {panel.answer!r}" for panel in panels]


def draw_panel(panel: _Panel) -> Image.Image:
    """Returns one version's picture: caption, image with dropped patches faded, layer plan."""
    cell = max(4, _SIDE // panel.grid)
    side = cell * panel.grid
    drawn = Image.new("RGB", (side + 2 * _MARGIN, _CAPTION + side + _STRIP + 2 * _MARGIN), _PAPER)
    ink = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(size=13)
    ink.text((_MARGIN, 6), panel.title, _INK, font)
    ink.text((_MARGIN, 22), _fitting(f"\N{LEFT DOUBLE QUOTATION MARK}{panel.answer}", side, ink, font), _GRID, font)
    drawn.paste(_faded(panel, side), (_MARGIN, _CAPTION))
    for index in sorted(panel.kept):
        row, column = divmod(index, panel.grid)
        left, top = _MARGIN + column * cell, _CAPTION + row * cell
        ink.rectangle((left, top, left + cell, top + cell), outline=_GRID)
    top = _CAPTION + side + _MARGIN
    for layer in range(panel.layers):
        left, right = (_MARGIN + side * edge // panel.layers for edge in (layer, layer + 1))
        fill = _KEPT if layer in panel.plan else None
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


def _faded(panel: _Panel, side: int) -> Image.Image:
    """Returns the image at ``side`` pixels, what is not kept faded to grey and towards white."""
    image = panel.image.resize((side, side), Image.Resampling.LANCZOS)
    faded = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, _PAPER), _FADE)
    mask = np.zeros(panel.grid**2, np.uint8)
    mask[sorted(panel.kept)] = 255
    cells = Image.fromarray(mask.reshape(panel.grid, panel.grid)).resize((side, side), Image.Resampling.NEAREST)
    return Image.composite(image, faded, cells)


def _panel(engine: Engine, answer: Answer, image: Image.Image, grid: int) -> _Panel:
    model = engine.model
    title = (
        f"{engine.entry.version}: {len(answer.keep_list)} of {model.visual_tokens} tokens, "
        f"{len(answer.layer_plan)} of {model.layers} layers"
    )
    text = " ".join(answer.text.split())
    return _Panel(title, text, image, grid, set(answer.keep_list), set(answer.layer_plan), model.layers)


def as_seen(engine: Engine, rgb: np.ndarray) -> Image.Image:
    """Returns the picture cut and scaled as the model sees it.

    The preprocess graph ends in a linear map per channel; a black and a white picture tell it, and it is undone.
    """

    def pixels(picture: np.ndarray) -> np.ndarray:
        return engine.preprocess(picture).numpy()[0].transpose(1, 2, 0)

    size = engine.model.image_size
    black, white = (pixels(np.full((size, size, 3), value, np.uint8)).mean(axis=(0, 1)) for value in (0, 255))
    shown = (pixels(rgb) - black) / (white - black) * 255
    return Image.fromarray(np.clip(np.rint(shown), 0, 255).astype(np.uint8))


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
