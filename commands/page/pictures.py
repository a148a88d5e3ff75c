"""Sample pictures with the tokens that each version kept.

What it is: a section as markup. What it knows: that visual tokens are the cells of a square grid, row by row.
What it does not know: how they are chosen.

Each picture stands in the page once, as a PNG in base64; each version shows it again under a veil over the dropped
patches. Where N is no square number there is no grid to draw: the picture is shown whole, and the kept tokens are given
by their numbers.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence

from PIL import Image

from allrounder.calib.fidelity import same_answer
from allrounder.card import Card
from allrounder.commands.page.markup import Markup, element
from allrounder.commands.page.samples import Kept, Sample
from allrounder.commands.page.words import ranges

__all__ = ["kept_pictures", "png"]

_LARGEST = 448  # pixels of a side as embedded: models see about as many


def kept_pictures(card: Card, samples: Sequence[Sample]) -> Markup:
    """Returns every sample: the picture and its question, and per version what is kept and answered."""
    title = element("h2", "What is kept of a picture")
    if not samples:
        return element("section", title, element("p", "No sample pictures were given for this page."))
    grid = math.isqrt(card.visual_tokens)
    square = grid * grid == card.visual_tokens
    explained = _drawn(card, grid) if square else _numbered(card)
    shown = [_sample(card, sample, index, grid if square else None) for index, sample in enumerate(samples)]
    return element("section", title, element("p", explained), *shown)


def _drawn(card: Card, grid: int) -> str:
    return (
        f"Each picture is read as {grid} by {grid} patches, one visual token each. Veiled patches are dropped before "
        f"layer {card.gather_layer}; the strip below shows which of the {card.layers} layers are run."
    )


def _numbered(card: Card) -> str:
    return (
        f"{card.visual_tokens} visual tokens form no square grid, so what is kept cannot be drawn over the pictures; "
        f"the kept tokens are given by their numbers. The strip shows which of the {card.layers} layers are run."
    )


def png(sample: Sample) -> bytes:
    """Returns a sample's picture as PNG, scaled down to at most 448 pixels a side; equal pictures give equal bytes."""
    image = Image.fromarray(sample.picture)
    image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _sample(card: Card, sample: Sample, index: int, grid: int | None) -> Markup:
    name = f"picture-{index}"
    data = "data:image/png;base64," + base64.b64encode(png(sample)).decode("ascii")
    side = grid or 1
    image = element("image", id=name, href=data, width=side, height=side, preserveAspectRatio="none")
    wanted = None if sample.wanted is None else element("p", "Right answer: ", element("bdi", sample.wanted))
    whole = element(
        "figure",
        _svg(side, f"Sample picture {index + 1}, whole", image),
        element("figcaption", element("p", element("b", "The picture")), wanted),
    )
    versions = [_version(card, sample, kept, name, grid) for kept in sample.versions]
    question = element(
        "h3", "\N{LEFT DOUBLE QUOTATION MARK}", element("bdi", sample.question), "\N{RIGHT DOUBLE QUOTATION MARK}"
    )
    return element("div", question, element("div", whole, *versions, class_="gallery"), class_="sample")


def _version(card: Card, sample: Sample, kept: Kept, name: str, grid: int | None) -> Markup:
    counts = f"{len(kept.keep_list)} of {card.visual_tokens} tokens, {len(kept.layer_plan)} of {card.layers} layers"
    alt = f"The same picture under {kept.version}: {counts}"
    layers = [element("use", href=f"#{name}")]
    if grid is not None:
        dropped = set(range(card.visual_tokens)).difference(kept.keep_list)
        layers.append(element("path", d=_cells(dropped, grid), class_="veil"))
        alt += f"; tokens {ranges(kept.keep_list)} are kept"
    return element(
        "figure",
        _svg(grid or 1, alt, *layers),
        _plan(kept, card.layers),
        element(
            "figcaption",
            element("p", element("b", kept.version)),
            element("p", counts, class_="quiet"),
            element("p", f"Tokens {ranges(kept.keep_list)}", class_="quiet") if grid is None else None,
            element("p", element("bdi", kept.answer or "(empty answer)"), _mark(sample, kept)),
        ),
    )


def _mark(sample: Sample, kept: Kept) -> Markup | None:
    """Says whether an answer is the right one, graded as the card grades."""
    if sample.wanted is None:
        return None
    right = same_answer(kept.answer, sample.wanted)
    return element("span", " right" if right else " wrong", class_="right" if right else "wrong")


def _svg(side: int, alt: str, *layers: Markup) -> Markup:
    return element("svg", *layers, viewBox=f"0 0 {side} {side}", role="img", aria_label=alt, class_="picture")


def _cells(cells: Iterable[int], grid: int) -> str:
    """Returns a path over ``cells`` of a grid; neighbours in a row are one rectangle."""
    runs: list[list[int]] = []
    for cell in sorted(cells):
        if runs and cell == runs[-1][0] + runs[-1][1] and cell % grid:
            runs[-1][1] += 1
        else:
            runs.append([cell, 1])
    return "".join(f"M{first % grid} {first // grid}h{length}v1h-{length}z" for first, length in runs)


def _plan(kept: Kept, layers: int) -> Markup:
    run = set(kept.layer_plan)
    cells = (
        element("rect", x=layer + 0.1, y=0, width=0.8, height=1, class_="run" if layer in run else "skipped")
        for layer in range(layers)
    )
    return element(
        "svg",
        *cells,
        viewBox=f"0 0 {layers} 1",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"Layers run: {ranges(kept.layer_plan) or 'none'}",
        class_="plan",
    )
