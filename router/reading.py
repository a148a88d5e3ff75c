"""Reading: what the unpruned model answers to all questions about one image.

The rows ``[prefix | V]`` are causal and the same for every question, so they are read once per image and their keys and
values shared. A suffix's padding must stay unseen by what is decoded behind it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from allrounder.vlm.prompt import PromptBatch
from allrounder.vlm.pruned import PrunedModel, PruningDecision, State

__all__ = ["Spoken", "answer", "read_image"]


class Spoken(NamedTuple):
    """One answer: ``ids`` int64 [A], the stop token that ended it included; ``log_probs`` float32 [A, V]."""

    ids: Tensor
    log_probs: Tensor


@torch.no_grad()
def read_image(pruned: PrunedModel, image_embeds: Tensor, prefix_ids: Tensor) -> State:
    """Reads ``[prefix | V]``, int64 [1, P] and [1, N, H], which every question about the image begins with."""
    nothing = PromptBatch(prefix_ids, prefix_ids.new_zeros(1, 0), prefix_ids.new_zeros(1))
    keep = torch.arange(pruned.spec.image_tokens, device=image_embeds.device)[None]
    return pruned.prefill(image_embeds, nothing, PruningDecision(keep, tuple(range(pruned.spec.decoder.layers)), 0))


@torch.no_grad()
def answer(
    pruned: PrunedModel, image: State, prompt: PromptBatch, new_tokens: int, stop_ids: Sequence[int]
) -> list[Spoken]:
    """Returns the greedy answers to B questions about one image, up to ``new_tokens`` long.

    ``image`` is from `read_image` of the same model, and stays as it is; the prefixes of ``prompt`` are the image's.

    Raises:
        PromptTooLong: A question with its answer is longer than the model's positions reach.
    """
    state = _spread(image, len(prompt.suffix_ids))
    before = state.valid_all.shape[1]
    logits = pruned.decode(state, prompt.suffix_ids)
    last = (prompt.suffix_lengths - 1)[:, None, None].expand(-1, 1, logits.shape[2])
    step = logits.gather(1, last)[:, 0].float().log_softmax(dim=-1)
    every = torch.arange(prompt.suffix_ids.shape[1], device=step.device)
    real = every < prompt.suffix_lengths[:, None]
    for valid in (state.valid_all, state.valid_kept):
        valid[:, before:] = real
    state.positions = before + prompt.suffix_lengths
    stops = torch.tensor(tuple(stop_ids), dtype=torch.int64, device=step.device)
    tops, ids = [step], [step.argmax(dim=-1)]
    stopped = torch.isin(ids[0], stops)
    while len(ids) < new_tokens and not bool(stopped.all()):
        step = pruned.decode(state, ids[-1][:, None])[:, -1].float().log_softmax(dim=-1)
        tops.append(step)
        ids.append(step.argmax(dim=-1))
        stopped = stopped | torch.isin(ids[-1], stops)
    rows, found = torch.stack(ids, dim=1), torch.stack(tops, dim=1)
    return [Spoken(row[:end], top[:end].clone()) for row, top, end in zip(rows, found, _ends(rows, stops), strict=True)]


def _ends(ids: Tensor, stops: Tensor) -> list[int]:
    """Returns how many ids of each row count: up to the first stop id, which counts."""
    found = torch.isin(ids, stops)
    first = found.long().argmax(dim=1) + 1
    return torch.where(found.any(dim=1), first, ids.shape[1]).tolist()


def _spread(state: State, rows: int) -> State:
    """Returns a state of one row as ``rows`` equal ones that can be advanced without changing it."""
    layers = {
        layer: (keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1))
        for layer, (keys, values) in state.cache.layers.items()
    }
    return dataclasses.replace(
        state,
        layer_mask=state.layer_mask.expand(rows, -1),
        positions=state.positions.expand(rows),
        valid_all=state.valid_all.expand(rows, -1),
        valid_kept=state.valid_kept.expand(rows, -1),
        cache=dataclasses.replace(state.cache, layers=layers),
    )
