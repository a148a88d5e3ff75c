"""Prompts to verify graphs with: random ids, images between them, and what graphs take of a layout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from allrounder import tensors
from allrounder.layout import PromptLayout, sequential_layout
from allrounder.vlm.spec import ModelSpec

__all__ = ["prompt_feeds", "random_layout"]


def random_layout(spec: ModelSpec, texts: Sequence[int], generator: torch.Generator) -> PromptLayout:
    """Returns a prompt of stretches of text, ``texts`` ids each, with an image between every two."""
    ids: list[int] = []
    for count in texts:
        drawn = torch.randint(spec.decoder.vocabulary - 1, (count,), generator=generator)
        ids += [*(drawn + (drawn >= spec.image_token_id)).tolist(), spec.image_token_id]
    return sequential_layout(ids[:-1], spec.image_token_id, [spec.image_tokens] * (len(texts) - 1))


def prompt_feeds(layout: PromptLayout) -> dict[str, np.ndarray]:
    """Returns the inputs of router and decoder that a layout gives."""
    return {
        tensors.INPUT_IDS: np.array([layout.input_ids]),
        tensors.IMAGE_INDEX: np.array(layout.image_index, np.int64),
        tensors.IMAGE_OF: np.array(layout.image_of, np.int64),
        tensors.POSITION_IDS: np.array(layout.position_ids)[:, None],
    }
