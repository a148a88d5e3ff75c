"""The questions that calibration asks: which of a file's, and whether they are fit for a bundle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allrounder.chat.messages import question
from allrounder.errors import InputInvalid, PromptsInvalid, PromptTooLong
from allrounder.images.planning import PlannedImage, plan_images
from allrounder.layout import PromptLayout
from allrounder.prompts import Prompt
from allrounder.runtime.engine import Engine
from allrounder.runtime.image import image_size

__all__ = ["MAX_ANSWER", "QUESTIONS", "check_questions", "layout_of", "planned", "quick_sample", "ranking_prompts"]

MAX_ANSWER = 32  # tokens of an answer that are compared; calibration questions have short answers
QUESTIONS = 64  # prompts of the quick fidelity, and as many others for the ranking
_SAMPLE_SEED = 7


def check_questions(engine: Engine, prompts: Sequence[Prompt]) -> None:
    """Checks that every question can be asked: it is within the engine's limits, and the model's template takes it.

    Raises:
        PromptsInvalid: Some cannot; they are named.
        ImageInvalid: An image's size matters, and its file is no image.
    """
    refused, free = [], min(MAX_ANSWER, engine.limits.new_tokens)
    for prompt, images in zip(prompts, planned(engine, prompts), strict=True):
        try:
            layout = layout_of(engine, prompt, images)
            if layout.next_position + free > engine.model.max_positions:
                got = f"{layout.text_tokens} text + {layout.image_tokens} image + {free} new tokens"
                raise PromptTooLong("too long for the model", got=got)
        except InputInvalid as error:
            why = error.got if isinstance(error, PromptTooLong) else error
            refused.append(f"{prompt.question[:60]!r} about {prompt.image.name}: {why}")
    if refused:
        raise PromptsInvalid(
            f"{len(refused)} questions cannot be asked of these engines",
            got="; ".join(refused[:10]) + (" ..." if len(refused) > 10 else ""),
            wanted=f"up to {engine.limits.text_tokens} text tokens, the template's included, "
            f"{engine.limits.image_tokens} image tokens, and {engine.model.max_positions} with the answer's",
            remedy="shorten or remove these questions",
        )


def planned(engine: Engine, prompts: Sequence[Prompt]) -> list[tuple[PlannedImage, ...]]:
    """Returns what the image of each question becomes; a size is read once, and where it matters alone.

    Raises:
        ImageInvalid: A file is no image, or its image too narrow for the model.
    """
    plan = engine.model.images
    if plan.most_tiles == 1:
        return [plan_images(plan, [(plan.size, plan.size)])] * len(prompts)
    known = {path: plan_images(plan, [image_size(path)]) for path in {prompt.image for prompt in prompts}}
    return [known[prompt.image] for prompt in prompts]


def layout_of(engine: Engine, prompt: Prompt, images: Sequence[PlannedImage]) -> PromptLayout:
    """Returns the layout of a question about one image, as the engine's model asks it.

    Args:
        engine: Any engine of the bundle.
        prompt: The question.
        images: What its image becomes.

    Raises:
        InputInvalid: The model's template refuses the question, or it exceeds the engine's limits.
    """
    return engine.layout_of(engine.ids(question(prompt.question)), images)


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
