"""Requests whose image tokens were made elsewhere: the route through ``multi_modal_embeddings``.

What it is: `embedding_request`, the dict that ``LLM.generate`` takes, and `prompt_text`, the prompt in it.
What it knows: which models' processors take rows and count them: LLaVA-NeXT from 1.1 on, and this project's own class.
What it does not know: how rows are made (`allrounder.serving.kept_rows`).

    reader = RowReader("checkpoint")                               # on any machine; needs no TensorRT-LLM
    read = reader.read(image, question)
    prompt = prompt_text(reader.sidecar.prompt, question)
    llm.generate(embedding_request(prompt, read.rows, read.keep), sampling_params)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from allrounder.errors import InputInvalid
from allrounder.manifest import PromptTemplate

__all__ = ["embedding_request", "prompt_text"]


def embedding_request(prompt: str, rows: np.ndarray, keep: Sequence[int] | None = None) -> dict[str, Any]:
    """Returns the request of a prompt with one ``<image>`` and the rows [T, H] that stand for it.

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
    """Returns the whole prompt as text, ``<image>`` where the image stands.

    Raises:
        InputInvalid: The question holds an ``<image>`` itself: as text it would become one.
    """
    if "<image>" in question:
        raise InputInvalid("a question is plain text", where="question", got=question, remedy="leave <image> out of it")
    return f"{template.before_image}<image>{template.after_image}{question}{template.after_question}"
