"""Packing: many questions about one image in one sequence, each seeing what it will see when asked alone.

Layout of one row: ``USER:`` | image tokens | question 1 with its answer | question 2 ... Every question continues the
prefix at the same position, sees the prefix and itself, and is blind to its neighbours: exactly the single prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from allrounder.demo.questions import Question
from allrounder.demo.scenes import GRID
from allrounder.demo.tokenizer import AFTER_IMAGE, BEFORE_ANSWER, BEFORE_IMAGE

IGNORED = -100


@dataclass(frozen=True)
class PackedText:
    """Token rows of one batch, the image positions left open.

    ``head`` int64 [head]: tokens before the image. ``ids``, ``labels``, ``positions``, ``segments`` int64 [B, text]:
    tokens after it. ``labels`` is ``IGNORED`` where nothing is learned; ``segments`` counts questions from 1, 0 pads.
    """

    head: torch.Tensor
    ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    segments: torch.Tensor

    def to(self, device: torch.device) -> PackedText:
        """The same on ``device``."""
        fields = (self.head, self.ids, self.labels, self.positions, self.segments)
        return PackedText(*(field.to(device, non_blocking=True) for field in fields))


@dataclass(frozen=True)
class Packer:
    """Turns questions into rows with one tokenizer."""

    tokenizer: PreTrainedTokenizerFast

    def tokens(self, text: str) -> list[int]:
        """Token ids of ``text``, no tokens added."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def pack(self, images: Sequence[Sequence[Question]], image_tokens: int = GRID * GRID) -> PackedText:
        """Pack the questions of each image of ``image_tokens`` into one row, padded on the right to the longest."""
        head = self.tokens(BEFORE_IMAGE)
        start = len(head) + image_tokens
        rows = [self._row(questions, start) for questions in images]
        longest = max(row.shape[1] for row in rows)
        filler = np.array([self.tokenizer.pad_token_id, IGNORED, start, 0], np.int64)[:, None]
        full = np.stack([np.concatenate([row, filler.repeat(longest - row.shape[1], 1)], 1) for row in rows])
        ids, labels, positions, segments = torch.from_numpy(full).unbind(1)
        return PackedText(torch.tensor(head), ids, labels, positions, segments)

    def _row(self, questions: Sequence[Question], start: int) -> np.ndarray:
        columns: list[tuple[int, int, int, int]] = []
        for number, question in enumerate(questions, 1):
            asked = self.tokens(AFTER_IMAGE + question.text + BEFORE_ANSWER)
            answered = [*self.tokens(" " + question.answer), self.tokenizer.eos_token_id]
            # Labels are one place early: the token at i is asked for the token at i + 1.
            labels = [IGNORED] * (len(asked) - 1) + answered
            ids = asked + answered[:-1]
            columns += [(i, label, start + n, number) for n, (i, label) in enumerate(zip(ids, labels, strict=True))]
        return np.array(columns, np.int64).T


def visible(segments: torch.Tensor) -> torch.Tensor:
    """Which text token sees which: bool [B, 1, text, text], causal inside one question. Padding sees itself."""
    text = segments.shape[1]
    causal = torch.ones(text, text, dtype=torch.bool, device=segments.device).tril()
    return ((segments[:, :, None] == segments[:, None, :]) & causal)[:, None]
