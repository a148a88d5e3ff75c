"""The questions of a fidelity report: the demo's test scenes, drawn once, or a prompts file.

The demo's test split shares no scene and no handwritten digit with what trained the demo model or its router.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from allrounder.calib.questions import check_questions
from allrounder.errors import InputInvalid
from allrounder.prompts import Prompt, read_prompts
from allrounder.runtime.engine import Engine
from allrounder.runtime.image import to_rgb

__all__ = ["Questions", "check_all", "check_apart", "draw_test_split", "read_questions", "typical"]

_PER_IMAGE = 5  # as many as the demo has classes of questions
_FILE = "prompts.jsonl"
_FIRST_SCENE = 1000  # behind those that `demo.evaluate` and `honesty` show: they described the model while it grew


class Questions(NamedTuple):
    """What is asked: name and description of the `Dataset`, the prompts, and the folder of their file."""

    name: str
    about: str
    prompts: tuple[Prompt, ...]
    folder: Path


def draw_test_split(work: Path, questions: int) -> Questions:
    """Returns at least ``questions`` questions about scenes of the demo's test split, classes in balance.

    They are drawn into a folder in ``work``, unless they lie there from the last time.
    """
    from allrounder.demo.prompts import write_prompts
    from allrounder.demo.scenes import Split

    images = -(-questions // _PER_IMAGE)
    place = work / f"test-{images}"
    if not place.is_dir():
        partial = place.with_name(f"{place.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_prompts(partial, Split.TEST, images, _PER_IMAGE, _FIRST_SCENE)
        partial.rename(place)
    last = _FIRST_SCENE + images - 1
    about = f"demo scenes of the test split, seeds {_FIRST_SCENE} to {last}, {_PER_IMAGE} questions each"
    return read_questions(place / _FILE, questions, about)


def read_questions(file: Path, count: int, about: str | None = None) -> Questions:
    """Returns the first ``count`` questions of a prompts file, or all where there are fewer.

    Raises:
        PromptsInvalid: It has unusable lines, or none at all.
        InputInvalid: No question is wanted.
    """
    if count < 1:
        raise InputInvalid("a report needs questions", where="--questions", got=count, wanted="1 or more")
    found = read_prompts(file)
    prompts = found.prompts[:count]
    part = "" if len(prompts) == len(found.prompts) else f" (the first {len(prompts)} of {len(found.prompts)})"
    return Questions(found.name, (about or f"prompts of {file.name}") + part, prompts, file.parent)


def check_all(engine: Engine, prompts: Sequence[Prompt]) -> None:
    """Checks every question and image before hours are spent on the first ones.

    Raises:
        PromptsInvalid: Some questions are too long for the engine; they are named.
        ImageInvalid: A file is no image.
    """
    check_questions(engine, prompts)
    for image in dict.fromkeys(prompt.image for prompt in prompts):
        to_rgb(image)


def check_apart(questions: Sequence[Prompt], ranking: Sequence[Prompt]) -> None:
    """Checks that no prompt that ranks layers is measured as well, under whatever file name.

    Raises:
        InputInvalid: Some are; the first ones are named.
    """
    images: dict[Path, str] = {}

    def identity(prompt: Prompt) -> tuple[str, str]:
        if prompt.image not in images:
            images[prompt.image] = hashlib.sha256(prompt.image.read_bytes()).hexdigest()
        return images[prompt.image], prompt.question

    ranked = {identity(prompt) for prompt in ranking}
    both = [prompt for prompt in questions if identity(prompt) in ranked]
    if both:
        named = "; ".join(f"{prompt.question!r} about {prompt.image.name}" for prompt in both[:5])
        raise InputInvalid(
            f"{len(both)} questions would both rank layers and be measured",
            where="--rank",
            got=named + (" ..." if len(both) > 5 else ""),
            remedy="give other prompts by --rank than those of --calib",
        )


def typical(prompts: Sequence[Prompt], count: int) -> tuple[Prompt, ...]:
    """Returns ``count`` questions about different images, of as many kinds as there are, the first of each kind."""
    kinds = sorted({prompt.kind for prompt in prompts})
    chosen: list[Prompt] = []
    while len(chosen) < count:
        before = len(chosen)
        for kind in kinds:
            seen = {prompt.image for prompt in chosen}
            fresh = [prompt for prompt in prompts if prompt.kind == kind and prompt.image not in seen]
            chosen += fresh[: 1 if len(chosen) < count else 0]
        if len(chosen) == before:
            break
    return tuple(chosen)
