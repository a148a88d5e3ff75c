"""Examples, unlabelled images with questions: a prompts file, or the demo scenes drawn on the fly.

An example is found by its index, so that a resumed run sees what an unbroken one sees. Labels are not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from allrounder.demo.drawing import draw
from allrounder.demo.prompts import split_scene
from allrounder.demo.questions import sample_questions
from allrounder.demo.scenes import Scene, Split
from allrounder.errors import ImageInvalid
from allrounder.prompts import PromptSet

__all__ = ["Example", "Examples", "FileExamples", "SceneExamples"]


class Example(NamedTuple):
    """One image, uint8 RGB [height, width, 3], and one question about it."""

    image: np.ndarray
    question: str


class Examples(Protocol):
    """A set of examples; the same index always gives the same example."""

    @property
    def name(self) -> str:
        """What the set is called in logs and records."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def image(self, index: int) -> int:
        """Returns a number that examples of the same image share, and no others; costs nothing."""
        ...

    def question(self, index: int) -> str:
        """Returns the question of example ``index`` without its image."""
        ...


class FileExamples:
    """The prompts of a file or folder."""

    def __init__(self, prompts: PromptSet) -> None:
        self.name = prompts.name
        self._prompts = prompts.prompts
        numbers: dict[Path, int] = {}
        self._images = [numbers.setdefault(prompt.image, len(numbers)) for prompt in self._prompts]

    def __len__(self) -> int:
        return len(self._prompts)

    def image(self, index: int) -> int:
        return self._images[index]

    def question(self, index: int) -> str:
        return self._prompts[index].question

    def __getitem__(self, index: int) -> Example:
        """Returns example ``index``.

        Raises:
            ImageInvalid: The file is no image.
        """
        prompt = self._prompts[index]
        try:
            with Image.open(prompt.image) as image:
                return Example(np.asarray(image.convert("RGB")), prompt.question)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ImageInvalid("not an image", where=prompt.image, got=error) from error


class SceneExamples:
    """The demo's scenes, drawn when asked for.

    Args:
        split: Which of the demo's disjoint worlds.
        first: Seed of the first scene.
        scenes: How many scenes.
        questions: Questions per scene; examples of one scene follow each other.
        tiles: Whether scenes are windows, as a model that cuts images into tiles should see them.
    """

    def __init__(self, split: Split, first: int, scenes: int, questions: int, *, tiles: bool = False) -> None:
        kind = "demo windows" if tiles else "demo scenes"
        self.name = f"{kind} {split.name.lower()} {first}..{first + scenes - 1}, {questions} questions each"
        self._tiles = tiles
        self._split, self._first, self._scenes, self._questions = split, first, scenes, questions

    def __len__(self) -> int:
        return self._scenes * self._questions

    def __getitem__(self, index: int) -> Example:
        scene = self._scene(index)
        return Example(draw(scene), self.question(index))

    def image(self, index: int) -> int:
        return index // self._questions

    def question(self, index: int) -> str:
        scene = self._scene(index)
        questions = sample_questions(scene, self._questions)
        return questions[index % self._questions % len(questions)].text

    def _scene(self, index: int) -> Scene:
        return split_scene(self._split, self._first + self.image(index), tiles=self._tiles)
