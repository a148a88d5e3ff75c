"""Batches of prompts for the torch stages: ragged rows of text and image tokens, padded on the right.

What it is: `PromptBatch`, made of prompt layouts; and which of its rows stay under keep indices.
What it knows: ids and places, as `allrounder.layout` says them. What it does not know: how ids come of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from allrounder.chat.messages import Messages, question
from allrounder.chat.tokenization import ChatEncoder
from allrounder.errors import InputInvalid
from allrounder.images.planning import Extent, plan_images
from allrounder.layout import PromptLayout, sequential_layout

if TYPE_CHECKING:
    from allrounder.vlm.model import LoadedModel

__all__ = [
    "PromptBatch",
    "kept_rows",
    "model_layouts",
    "model_prompt",
    "model_prompts",
    "prompt_batch",
    "real_rows",
    "rope_positions",
]


class PromptBatch(NamedTuple):
    """B prompts of up to R rows, up to N of which are image tokens; int64, padded at the end of each row."""

    input_ids: Tensor  # [B, R], padded with 0; the placeholder's id where image tokens stand
    lengths: Tensor  # [B]: rows that are no padding, 1 to R
    position_ids: Tensor  # [A, B, R], padded with 0
    image_index: Tensor  # [B, N], ascending: the rows of the image tokens, padded with -1
    image_of: Tensor  # [B, N]: whose they are, 0 to I-1 in each row, padded with -1
    next_position: Tensor  # [B], of the first new token

    def row(self, index: int) -> PromptBatch:
        """Returns one prompt alone, without padding."""
        one, length = slice(index, index + 1), int(self.lengths[index])
        tokens = int((self.image_index[index] >= 0).sum())
        return PromptBatch(
            self.input_ids[one, :length],
            self.lengths[one],
            self.position_ids[:, one, :length],
            self.image_index[one, :tokens],
            self.image_of[one, :tokens],
            self.next_position[one],
        )

    def to(self, device: torch.device | str) -> PromptBatch:
        """Returns the same prompts on another device."""
        return PromptBatch(*(tensor.to(device) for tensor in self))

    def repeated(self, batch: int) -> PromptBatch:
        """Returns one prompt as ``batch`` rows; as many as that are returned as they are."""
        return PromptBatch(
            self.input_ids.expand(batch, -1),
            self.lengths.expand(batch),
            self.position_ids.expand(-1, batch, -1),
            self.image_index.expand(batch, -1),
            self.image_of.expand(batch, -1),
            self.next_position.expand(batch),
        )

    def interleaved(self, times: int) -> PromptBatch:
        """Returns every prompt ``times`` times, its copies next to each other."""
        return PromptBatch(*(part.repeat_interleave(times, dim=1 if part is self.position_ids else 0) for part in self))

    def appended(self, answers: Tensor) -> PromptBatch:
        """Returns the prompts with answers int64 [B, A] right behind each, padding at the end again."""
        count = answers.shape[1]
        steps = torch.arange(count, device=answers.device)
        places, positions = self.lengths[:, None] + steps, self.next_position[:, None] + steps
        rows = len(self.position_ids)
        return self._replace(
            input_ids=pad(self.input_ids, (0, count)).scatter(1, places, answers),
            lengths=self.lengths + count,
            position_ids=pad(self.position_ids, (0, count)).scatter(
                2, places.expand(rows, -1, -1), positions.expand(rows, -1, -1)
            ),
            next_position=self.next_position + count,
        )


def prompt_batch(layouts: Sequence[PromptLayout]) -> PromptBatch:
    """Returns prompts of one or more layouts, on the CPU.

    Raises:
        InputInvalid: No layout at all.
    """
    if not layouts:
        raise InputInvalid("nothing to answer", got="no prompt", wanted="at least one")
    rows, tokens = max(each.rows for each in layouts), max(each.image_tokens for each in layouts)
    return PromptBatch(
        _padded([each.input_ids for each in layouts], rows, 0),
        torch.tensor([each.rows for each in layouts]),
        torch.stack([_padded(axis, rows, 0) for axis in zip(*(each.position_ids for each in layouts), strict=True)]),
        _padded([each.image_index for each in layouts], tokens, -1),
        _padded([each.image_of for each in layouts], tokens, -1),
        torch.tensor([each.next_position for each in layouts]),
    )


def model_layouts(
    vlm: LoadedModel,
    conversations: Sequence[Messages],
    encoder: ChatEncoder | None = None,
    sizes: Sequence[Sequence[Extent]] | None = None,
) -> list[PromptLayout]:
    """Returns the layouts of conversations, each a list of messages, for a model.

    Args:
        vlm: The model; gives template, tokenizer and N of an image.
        conversations: Messages, as `allrounder.chat.messages` has them.
        encoder: The model's own, where it is there already: making one parses the whole tokenizer.
        sizes: Height and width of each conversation's images; None: all are of one tile's size.

    Raises:
        InputInvalid: Messages that are none, or that the template cannot render; other sizes than images.
        ImageInvalid: An image is too narrow for the model.
    """
    encoder = encoder or ChatEncoder(vlm.tokenizer_json, vlm.chat)
    token, tile = vlm.spec.image_token_id, (vlm.images.size, vlm.images.size)
    prompts = []
    for number, messages in enumerate(conversations):
        ids = encoder.ids(messages)
        images = plan_images(vlm.images, [tile] * ids.count(token) if sizes is None else sizes[number])
        prompts.append(sequential_layout(ids, token, [encoder.image_ids(image.content) for image in images]))
    return prompts


def model_prompts(vlm: LoadedModel, conversations: Sequence[Messages]) -> PromptBatch:
    """Returns the prompts of conversations for a model, on the model's device; see `model_layouts`."""
    return prompt_batch(model_layouts(vlm, conversations)).to(vlm.model.device)


def model_prompt(vlm: LoadedModel, questions: Sequence[str]) -> PromptBatch:
    """Returns the prompts of questions about one image each, for a model, on the model's device."""
    return model_prompts(vlm, [question(text) for text in questions])


def kept_rows(prompt: PromptBatch, keep: Tensor) -> tuple[Tensor, PromptBatch]:
    """Drops image tokens; what stays keeps its order and its positions.

    Args:
        prompt: B prompts.
        keep: int64 [B, T] into each row's image tokens, ascending, padded with -1 at the end.

    Returns:
        The rows that stay, int64 [B, R'], other rows behind them; and the prompts without the others.
    """
    batch, rows = prompt.input_ids.shape
    there, chosen = keep >= 0, keep.clamp_min(0)
    kept = torch.zeros(batch, prompt.image_index.shape[1] + 1, dtype=torch.bool, device=keep.device)
    kept = kept.scatter(1, keep.where(there, prompt.image_index.shape[1]), value=True)[:, :-1]
    places = prompt.image_index.where(prompt.image_index >= 0, rows)
    stays = pad(real_rows(prompt), (0, 1)).scatter(1, places, kept)[:, :rows]
    lengths = stays.sum(dim=1)
    order = (~stays).int().argsort(dim=1, stable=True)[:, : int(lengths.max())]
    index = (stays.cumsum(dim=1) - 1).gather(1, prompt.image_index.gather(1, chosen).clamp_min(0))
    smaller = PromptBatch(
        prompt.input_ids.gather(1, order),
        lengths,
        prompt.position_ids.gather(2, order.expand(len(prompt.position_ids), -1, -1)),
        index.where(there, -1),
        prompt.image_of.gather(1, chosen).where(there, -1),
        prompt.next_position,
    )
    real = real_rows(smaller)
    return order, smaller._replace(
        input_ids=smaller.input_ids.where(real, 0), position_ids=smaller.position_ids.where(real, 0)
    )


def real_rows(prompt: PromptBatch) -> Tensor:
    """Returns bool [B, R], False for padding."""
    return torch.arange(prompt.input_ids.shape[1], device=prompt.lengths.device) < prompt.lengths[:, None]


def rope_positions(position_ids: Tensor) -> Tensor:
    """Returns positions [A, B, R] as stock rotary modules take them: [B, R] where A = 1."""
    return position_ids[0] if len(position_ids) == 1 else position_ids


def _padded(rows: Sequence[Sequence[int]], length: int, fill: int) -> Tensor:
    return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows], dtype=torch.int64).reshape(
        len(rows), length
    )
