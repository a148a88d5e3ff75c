"""Usable examples: what of a prompts file a model can learn from, and the part of a set that is held out.

An image that breaks in the middle of a run costs the run, so each is decoded once before it; a question, its image and
its answer must fit into the model's positions.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from allrounder.chat.messages import question
from allrounder.chat.tokenization import ChatEncoder
from allrounder.errors import PromptsInvalid
from allrounder.images.planning import Extent
from allrounder.prompts import Check, Prompt, PromptSet, Unusable
from allrounder.vlm.model import LoadedModel
from allrounder.vlm.prompt import model_layouts

__all__ = ["checks", "held_out"]


def checks(vlm: LoadedModel, answer_tokens: int) -> Check:
    """Returns what raises `Unusable` for a prompt that the model cannot read.

    Args:
        vlm: The model.
        answer_tokens: What an answer may take of the model's positions.
    """
    encoder = ChatEncoder(vlm.tokenizer_json, vlm.chat)
    known: dict[Path, Extent | str] = {}

    def check(prompt: Prompt) -> None:
        if prompt.image not in known:
            known[prompt.image] = _size_or_trouble(prompt.image)
        size = known[prompt.image]
        if isinstance(size, str):
            raise Unusable(f"not an image: {size}", "save it again as PNG or JPEG")
        (layout,) = model_layouts(vlm, [question(prompt.question)], encoder, [[size]])
        free_tokens = vlm.spec.decoder.max_positions - layout.image_tokens - answer_tokens
        if (length := layout.text_tokens) > free_tokens:
            raise Unusable(
                f"the question with its template has {length} tokens; with the image and an answer of"
                f" {answer_tokens} the model's context leaves {free_tokens}",
                "shorten the question",
            )

    return check


def held_out(prompts: PromptSet, one_in: int) -> tuple[PromptSet, PromptSet]:
    """Returns what to learn from and what to validate on: one in so many, whole images, those named last.

    Raises:
        PromptsInvalid: There is one image only.
    """
    images = list(dict.fromkeys(prompt.image for prompt in prompts.prompts))
    counts = dict.fromkeys(images, 0)
    for prompt in prompts.prompts:
        counts[prompt.image] += 1
    if len(images) == 1:
        raise PromptsInvalid(
            "one image cannot both teach and validate",
            where=prompts.name,
            remedy="give more images, or --validation",
        )
    wanted, tail = max(1, len(prompts.prompts) // one_in), set()
    for image in reversed(images[1:]):
        if wanted <= 0:
            break
        tail.add(image)
        wanted -= counts[image]
    parts = ([prompt for prompt in prompts.prompts if (prompt.image in tail) is held] for held in (False, True))
    teaching, validating = (prompts._replace(prompts=tuple(part)) for part in parts)
    return teaching, validating


def _size_or_trouble(path: Path) -> Extent | str:
    """Returns an image's height and width, or why it is none."""
    try:
        with Image.open(path) as image:
            width, height = image.convert("RGB").size
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        return f"{path.name}: {error}"
    return height, width
