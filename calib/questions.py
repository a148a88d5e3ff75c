"""Questions: are they fit for a bundle, before minutes are spent on them.

What it is: one check. What it knows: the engine's limits. What it does not know: what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from allrounder.errors import PromptsInvalid, PromptTooLong
from allrounder.prompts import Prompt
from allrounder.runtime.engine import Engine

__all__ = ["check_questions"]


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
