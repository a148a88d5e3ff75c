"""Batches of prompts for the torch stages; the rule that makes the ids is `allrounder.tokenization`'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from allrounder.errors import InputInvalid
from allrounder.tokenization import PromptEncoder

if TYPE_CHECKING:
    from allrounder.vlm.model import LoadedModel

__all__ = ["PromptBatch", "model_prompt", "prompt_batch"]


class PromptBatch(NamedTuple):
    """B prompts: ``[prefix | N image tokens | suffix]``."""

    prefix_ids: Tensor  # int64 [B, P], equal rows
    suffix_ids: Tensor  # int64 [B, S], padded on the right with 0
    suffix_lengths: Tensor  # int64 [B], 1 to S

    def row(self, index: int) -> PromptBatch:
        """Returns one prompt alone, without padding."""
        length = int(self.suffix_lengths[index])
        return PromptBatch(
            self.prefix_ids[index : index + 1],
            self.suffix_ids[index : index + 1, :length],
            self.suffix_lengths[index : index + 1],
        )

    def to(self, device: torch.device | str) -> PromptBatch:
        """Returns the same prompts on another device."""
        return PromptBatch(*(tensor.to(device) for tensor in self))


def prompt_batch(encoder: PromptEncoder, questions: Sequence[str]) -> PromptBatch:
    """Returns the prompts of one or more questions, on the CPU.

    Raises:
        InputInvalid: No question at all, or one whose suffix is empty.
    """
    rows = [encoder.suffix_ids(question) for question in questions]
    if not rows or not all(rows):
        raise InputInvalid(
            "nothing to ask", got=list(questions), wanted="at least one prompt with text after the image"
        )
    lengths = [len(row) for row in rows]
    padded = [row + [0] * (max(lengths) - len(row)) for row in rows]
    prefix = torch.tensor([encoder.prefix_ids] * len(rows), dtype=torch.int64).reshape(len(rows), -1)
    return PromptBatch(prefix, torch.tensor(padded), torch.tensor(lengths))


def model_prompt(vlm: LoadedModel, questions: Sequence[str]) -> PromptBatch:
    """Returns the prompts of questions for a model, on the model's device.

    Raises:
        InputInvalid: There is no question.
    """
    return prompt_batch(PromptEncoder(vlm.tokenizer_json, vlm.template), questions).to(vlm.model.device)
