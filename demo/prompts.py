"""Prompts: scenes as PNG files and questions as JSON lines, for calibration, examples and tests.

``python -m allrounder.demo.prompts --out models/demo/calibration --images 64`` writes the shipped ones, and with
``--tiles`` those of images cut into tiles, whose windows take turns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from allrounder.demo.drawing import draw
from allrounder.demo.questions import CLASSES, Question, sample_questions
from allrounder.demo.scenes import CELLS, WORLD, Scene, Split, sample_scene, window_of


@dataclass(frozen=True)
class Example:
    """One question about one image, with its only right answer and its class."""

    image: Image.Image
    question: str
    answer: str
    kind: str
    cells: int = CELLS * CELLS  # that its image shows


def split_scene(split: Split, seed: int, *, tiles: bool) -> Scene:
    """Scene ``seed`` of ``split``: of the world, or with ``tiles`` of the window whose turn it is."""
    return sample_scene(split, seed, window_of(seed) if tiles else WORLD)


def scene_questions(scene: Scene, count: int) -> list[Question]:
    """``count`` neatly written questions about ``scene``, classes as even as they can be."""
    return sample_questions(scene, count, vary=False)


def examples(split: Split, count: int, first_seed: int = 0, *, tiles: bool = False) -> Iterator[Example]:
    """``count`` questions of ``split``, one of each class per image, where it has one."""
    for number in range(count):
        scene = split_scene(split, first_seed + number // len(CLASSES), tiles=tiles)
        asked = sorted(scene_questions(scene, len(CLASSES)), key=lambda question: CLASSES.index(question.kind))
        question = asked[number % len(CLASSES)]
        cells = len(scene.window.cells)
        yield Example(Image.fromarray(draw(scene)), question.text, question.answer, question.kind, cells)


def write_prompts(
    out: Path, split: Split, images: int, per_image: int = 5, first: int = 0, *, tiles: bool = False
) -> int:
    """Write ``images`` scenes of ``split``, seeds from ``first`` on, and ``prompts.jsonl``; returns the questions."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for seed in range(first, first + images):
        scene = split_scene(split, seed, tiles=tiles)
        name = f"images/{seed:03d}.png"
        Image.fromarray(draw(scene)).save(out / name, optimize=True)
        for question in scene_questions(scene, per_image):
            record = {"image": name, "question": question.text, "answer": question.answer, "kind": question.kind}
            lines.append(json.dumps(record))
    (out / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    return len(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write demo images and questions.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--per-image", type=int, default=5)
    parser.add_argument("--split", choices=[split.name.lower() for split in Split], default="validation")
    parser.add_argument("--tiles", action="store_true", help="windows of one to four cells")
    options = parser.parse_args(arguments)
    split = Split[options.split.upper()]
    count = write_prompts(options.out, split, options.images, options.per_image, tiles=options.tiles)
    print(json.dumps({"prompts": str(options.out / "prompts.jsonl"), "questions": count}))


if __name__ == "__main__":
    main()
