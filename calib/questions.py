"""The questions that calibration asks: which of a file's, and whether they are fit for a bundle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allrounder.errors import PromptsInvalid, PromptTooLong
from allrounder.prompts import Prompt
from allrounder.runtime.engine import Engine

__all__ = ["QUESTIONS", "check_questions", "quick_sample", "ranking_prompts"]

QUESTIONS = 64  # prompts of the quick fidelity, and as many others for the ranking
_SAMPLE_SEED = 7


def check_questions(engine: Engine, prompts: Sequence[Prompt]) -> None:
    """Checks that every question is within the engine's limits.

    Raises:
        PromptsInvalid: Some are not; they are named.
    """
    too_long = []
    for prompt in prompts:
        try:
            engine.prompt(prompt.question)
        except PromptTooLong as error:
            too_long.append(f"{prompt.question[:60]!r} about {prompt.image.name}: {error.got}")
    if too_long:
        raise PromptsInvalid(
            f"{len(too_long)} questions are too long for these engines",
            got="; ".join(too_long[:10]) + (" ..." if len(too_long) > 10 else ""),
            wanted=f"up to {engine.limits.text_tokens} text tokens",
            remedy="shorten or remove these questions",
        )


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
