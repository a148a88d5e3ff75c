"""The questions that calibration asks: which of a file's, and whether they are fit for a bundle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allrounder.chat.messages import question
from allrounder.errors import InputInvalid, PromptsInvalid, PromptTooLong
from allrounder.images.pixels import PreparedImages
from allrounder.layout import PromptLayout
from allrounder.prompts import Prompt
from allrounder.runtime.engine import Engine

__all__ = ["QUESTIONS", "check_questions", "layout_of", "quick_sample", "ranking_prompts"]

QUESTIONS = 64  # prompts of the quick fidelity, and as many others for the ranking
_SAMPLE_SEED = 7


def check_questions(engine: Engine, prompts: Sequence[Prompt]) -> None:
    """Checks that every question can be asked: it is within the engine's limits, and the model's template takes it.

    Raises:
        PromptsInvalid: Some cannot; they are named.
    """
    refused = []
    for prompt in prompts:
        try:
            layout_of(engine, prompt)
        except InputInvalid as error:
            why = error.got if isinstance(error, PromptTooLong) else error
            refused.append(f"{prompt.question[:60]!r} about {prompt.image.name}: {why}")
    if refused:
        raise PromptsInvalid(
            f"{len(refused)} questions cannot be asked of these engines",
            got="; ".join(refused[:10]) + (" ..." if len(refused) > 10 else ""),
            wanted=f"up to {engine.limits.text_tokens} text tokens, the template's included",
            remedy="shorten or remove these questions",
        )


def layout_of(engine: Engine, prompt: Prompt, images: PreparedImages | None = None) -> PromptLayout:
    """Returns the layout of a question about one image, as the engine's model asks it.

    Args:
        engine: Any engine of the bundle.
        prompt: The question.
        images: The image, prepared; None: it counts as one of a tile's size, and is not read.

    Raises:
        InputInvalid: The model's template refuses the question, or it exceeds the engine's limits.
    """
    messages = question(prompt.question)
    return engine.layout(messages) if images is None else engine.layout_of(engine.ids(messages), images.planned)


def quick_sample(prompts: Sequence[Prompt], count: int) -> tuple[Prompt, ...]:
    """Returns ``count`` of ``prompts`` (all, where there are fewer), drawn by a fixed seed and in file order."""
    if len(prompts) <= count:
        return tuple(prompts)
    drawn = np.random.default_rng(_SAMPLE_SEED).choice(len(prompts), size=count, replace=False)
    return tuple(prompts[index] for index in sorted(drawn))


def ranking_prompts(prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """Returns the prompts that rank the layers: others than the quick fidelity's, where there are enough."""
    measured = set(quick_sample(prompts, QUESTIONS))
    others = [prompt for prompt in prompts if prompt not in measured]
    return quick_sample(others if len(others) >= QUESTIONS // 2 else prompts, QUESTIONS)
