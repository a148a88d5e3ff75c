"""Prompts with one image, and requests whose image tokens were made elsewhere (``multi_modal_embeddings``).

TensorRT-LLM takes an id beyond the vocabulary for "a row comes from elsewhere". Processors that take rows and count
them are LLaVA-NeXT's, from 1.1 on, and this project's own.

    reader = RowReader("checkpoint")                               # on any machine; needs no TensorRT-LLM
    read = reader.read(image, question)
    prompt = prompt_text(reader.sidecar.chat, question)
    llm.generate(embedding_request(prompt, read.rows, read.keep), sampling_params)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from allrounder.chat.messages import question
from allrounder.chat.template import render
from allrounder.errors import InputInvalid
from allrounder.manifest import ChatTemplate
from allrounder.serving.kept_rows import KeptRows

__all__ = ["embedding_request", "one_image", "prompt_text", "with_rows"]


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


def prompt_text(chat: ChatTemplate, text: str) -> str:
    """Returns the whole prompt of a question about one image as text, the image token where the image is.

    Raises:
        InputInvalid: The question holds an image token itself: as text it would become one.
    """
    if chat.image_token in text:
        remedy = f"leave {chat.image_token} out of it"
        raise InputInvalid("a question is plain text", where="question", got=text, remedy=remedy)
    return render(chat, question(text))


def one_image(ids: Sequence[int], image_token: int) -> tuple[int, ...]:
    """Returns ids with one placeholder for the image, where there is one.

    A run of image tokens is one image: processors of Hugging Face write one for each of its rows.

    Raises:
        InputInvalid: There are several images.
    """
    places = [place for place, token in enumerate(ids) if token == image_token]
    if places and places[-1] - places[0] + 1 != len(places):
        raise InputInvalid("a prompt has one image", where="prompt", got="several", remedy="ask about one at a time")
    return tuple(ids) if not places else (*ids[: places[0] + 1], *ids[places[-1] + 1 :])


def with_rows(read: KeptRows, numbers: Iterable[int], vocabulary: int) -> list[int]:
    """Returns the ids of a pruned prompt, beyond the vocabulary for its image tokens.

    Args:
        read: The prompt and what is kept.
        numbers: Each kept row's number: in the table that a batch shares, or among all N tokens of the image.
        vocabulary: The id of row 0.
    """
    images, next_number = set(read.layout.image_index), iter(numbers)
    ids = read.layout.input_ids
    return [vocabulary + next(next_number) if row in images else ids[row] for row in read.kept.tolist()]
