"""Prompts with one image, and requests whose image tokens were made elsewhere (``multi_modal_embeddings``).

TensorRT-LLM takes an id beyond the vocabulary for "a row comes from elsewhere". Processors that take rows and count
them are LLaVA-NeXT's, from 1.1 on, and this project's own.

    reader = RowReader("checkpoint")                               # on any machine; needs no TensorRT-LLM
    read = reader.read(image, question)
    prompt = prompt_text(reader.sidecar.prompt, question)
    llm.generate(embedding_request(prompt, read.rows, read.keep), sampling_params)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from allrounder.errors import InputInvalid
from allrounder.manifest import PromptTemplate
from allrounder.runtime.prompt import PromptIds

__all__ = ["embedding_request", "prompt_text", "split_at_image", "with_rows"]


def embedding_request(prompt: str, rows: np.ndarray, keep: Sequence[int] | None = None) -> dict[str, Any]:
    """Returns the request of a prompt with one ``<image>`` and the rows [T, H] of its image.

    Args:
        prompt: See `prompt_text`.
        rows: As a `RowReader` gives them.
        keep: Which tokens they are. This project's own class needs them; others do not know of them: leave them out.

    Raises:
        InputInvalid: The prompt has not one image's place, or the rows are no matrix.
    """
    if prompt.count("<image>") != 1:
        raise InputInvalid("a prompt has one image", where="prompt", got=prompt.count("<image>"), wanted="<image> once")
    if rows.ndim != 2 or not len(rows):
        raise InputInvalid("image tokens are a matrix", where="rows", got=list(rows.shape), wanted="[T, hidden]")
    given: dict[str, Any] = {"image": [torch.from_numpy(np.ascontiguousarray(rows))]}
    if keep is not None:
        given["keep"] = [list(keep)]
    return {"prompt": prompt, "multi_modal_embeddings": given}


def prompt_text(template: PromptTemplate, question: str) -> str:
    """Returns the whole prompt as text, ``<image>`` where the image is.

    Raises:
        InputInvalid: The question holds an ``<image>`` itself: as text it would become one.
    """
    if "<image>" in question:
        raise InputInvalid("a question is plain text", where="question", got=question, remedy="leave <image> out of it")
    return f"{template.before_image}<image>{template.after_image}{question}{template.after_question}"


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
