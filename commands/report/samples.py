"""Sample images: what each version keeps of an image, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from allrounder.engines.bundle.reader import OpenBundle
from allrounder.engines.options import EngineOptions
from allrounder.manifest import Entry
from allrounder.prompts import Prompt
from allrounder.runtime.engine import Engine, open_engines
from allrounder.runtime.image import to_rgb
from allrounder.runtime.runtime import Runtime

__all__ = ["Kept", "Sample", "ask_versions"]

_ANSWER_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Kept:
    """What one version kept of an image, and its answer."""

    version: str
    keep_indices: tuple[int, ...]  # ascending, of 0..N-1
    kept_layers: tuple[int, ...]  # ascending, of 0..M-1
    answer: str


@dataclass(frozen=True, slots=True)
class Sample:
    """An image, a question, and what each version made of it."""

    image: Image.Image  # cut and scaled as the model sees it
    question: str
    wanted: str | None  # the right answer, where it is known
    versions: tuple[Kept, ...]
    image_tokens: int  # N
    grid: int | None  # where the image is one tile of grid x grid tokens, row by row


def ask_versions(bundle: OpenBundle, entries: Sequence[Entry], prompts: Sequence[Prompt]) -> tuple[Sample, ...]:
    """Asks each of ``entries`` every one of ``prompts``, and returns a sample for each prompt."""
    engines = open_engines(bundle, entries, EngineOptions(weights="shared"))
    limit = min(_ANSWER_TOKENS, bundle.manifest.limits.new_tokens)
    samples = []
    for prompt in prompts:
        rgb = to_rgb(prompt.image)
        answers = [Runtime(engine).generate(rgb, prompt.question, max_new_tokens=limit) for engine in engines]
        kept = tuple(
            Kept(entry.version, answer.keep_indices, answer.kept_layers, answer.text)
            for entry, answer in zip(entries, answers, strict=True)
        )
        samples.append(_sample(engines[0], rgb, prompt, kept))
    return tuple(samples)


def _sample(engine: Engine, rgb: np.ndarray, prompt: Prompt, kept: tuple[Kept, ...]) -> Sample:
    """Returns a sample, its image cut and scaled as the model sees it: its first tile."""
    (planned,), tiles = engine.prepare([rgb])
    side = math.isqrt(planned.tokens)
    grid = side if planned.tiles == 1 and side * side == planned.tokens else None
    return Sample(Image.fromarray(tiles[0]), prompt.question, prompt.answer, kept, planned.tokens, grid)
