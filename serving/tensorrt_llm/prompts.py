"""Token ids of prompts with one image.

What it is: where the image stands, and the ids that stand for its rows.
What it knows: TensorRT-LLM takes an id that is no word of the vocabulary for "a row comes from elsewhere".
What it does not know: tokenizers, rows, and TensorRT-LLM itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from allrounder.errors import InputInvalid
from allrounder.runtime.prompt import PromptIds

__all__ = ["split_at_image", "with_rows"]


def split_at_image(ids: Sequence[int], image_token: int) -> PromptIds | None:
    """Returns the ids on both sides of the image; None where there is no image.

    A run of image tokens is one image: processors of Hugging Face write one for each of its rows.

    Raises:
        InputInvalid: There are several images.
    """
    places = [place for place, token in enumerate(ids) if token == image_token]
    if not places:
        return None
    first, last = places[0], places[-1]
    if last - first + 1 != len(places):
        raise InputInvalid("a prompt has one image", where="prompt", got="several", remedy="ask about one at a time")
    return PromptIds(tuple(ids[:first]), tuple(ids[last + 1 :]))


def with_rows(prompt: PromptIds, numbers: Iterable[int], vocabulary: int) -> list[int]:
    """Returns the prompt with an id beyond the vocabulary for each image token.

    Args:
        prompt: The ids around the image.
        numbers: Each row's number: in the table that a batch shares, or among all N tokens of the image.
        vocabulary: The id of row 0.
    """
    return [*prompt.prefix_ids, *(vocabulary + number for number in numbers), *prompt.suffix_ids]
