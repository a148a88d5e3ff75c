"""Requests whose visual rows were made elsewhere: the route through ``multi_modal_embeddings``.

What it is: `embedding_request`, the dict that ``LLM.generate`` takes.
What it knows: which hosts' processors take rows and count them: LLaVA-NeXT from 1.1 on, and this project's own class.
What it does not know: how rows are made (`allrounder.integrations.pruned_vision`).

    vision = PrunedVision.open("checkpoint")                       # on any machine; needs no TensorRT-LLM
    request = embedding_request(vision.text(question), vision.rows(picture, question).rows)
    llm.generate(request, sampling_params)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from allrounder.errors import InputInvalid

__all__ = ["embedding_request"]


def embedding_request(prompt: str, rows: np.ndarray) -> dict[str, Any]:
    """Returns the request of a prompt with one ``<image>`` and the rows [T, H] that stand for it.

    Raises:
        InputInvalid: The prompt has not one picture's place, or the rows are no matrix.
    """
    if prompt.count("<image>") != 1:
        raise InputInvalid(
            "a prompt has one picture", where="prompt", got=prompt.count("<image>"), wanted="<image> once"
        )
    if rows.ndim != 2 or not len(rows):
        raise InputInvalid("visual rows are a matrix", where="rows", got=list(rows.shape), wanted="[T, hidden]")
    return {"prompt": prompt, "multi_modal_embeddings": {"image": [torch.from_numpy(np.ascontiguousarray(rows))]}}
