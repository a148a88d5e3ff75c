"""Reading: what the unpruned model answers to all questions about the same images.

What it is: greedy answers with their next-token distributions, several questions at a time.
What it knows: that rows are causal, so that those with which all prompts begin, the image among them, are read once
and their keys and values shared; that a prompt's padding must stay unseen by what is decoded behind it.
What it does not know: examples, caches, decisions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from allrounder.vlm.prompt import PromptBatch, real_rows
from allrounder.vlm.pruned import PrunedModel, State, full_decision

__all__ = ["Spoken", "answer", "read_common"]


class Spoken(NamedTuple):
    """One answer: ``ids`` int64 [A], the stop token that ended it included; ``log_probs`` float32 [A, V]."""

    ids: Tensor
    log_probs: Tensor


@torch.no_grad()
def read_common(pruned: PrunedModel, image_embeds: Tensor, prompt: PromptBatch) -> State | None:
    """Reads the rows with which all prompts begin, of each but its last; None where there are none.

    Args:
        pruned: The model.
        image_embeds: [1, N, H], the same of all prompts.
        prompt: The prompts.
    """
    same = (prompt.input_ids == prompt.input_ids[:1]).all(dim=0) & (
        prompt.position_ids == prompt.position_ids[:, :1]
    ).all(dim=(0, 1))
    rows = min(int(same.int().cumprod(dim=0).sum()), int(prompt.lengths.min()) - 1)
    if not rows:
        return None
    index = prompt.image_index[:1]
    tokens = int((index[0] < rows).sum())
    beginning = PromptBatch(
        prompt.input_ids[:1, :rows],
        torch.tensor([rows], device=index.device),
        prompt.position_ids[:, :1, :rows],
        index[:, :tokens],
        prompt.image_of[:1, :tokens],
        prompt.position_ids[:, :1, :rows].amax(dim=(0, 2)) + 1,
    )
    return pruned.prefill(image_embeds[:, :tokens], beginning, full_decision(pruned.spec, beginning))


@torch.no_grad()
def answer(
    pruned: PrunedModel,
    image_embeds: Tensor,
    prompt: PromptBatch,
    common: State | None,
    new_tokens: int,
    stop_ids: Sequence[int],
) -> list[Spoken]:
    """Returns the greedy answers to B prompts about the same images.

    Args:
        pruned: The model that read their beginning.
        image_embeds: [1, N, H], the same of all prompts.
        prompt: B prompts.
        common: From `read_common`, of these prompts among others; stays as it is.
        new_tokens: Answers are cut here.
        stop_ids: Any of them ends an answer.

    Raises:
        PromptTooLong: A question with its answer is longer than the model's positions reach.
    """
    if common is None:
        state = pruned.prefill(image_embeds, prompt, full_decision(pruned.spec, prompt))
        step = state.logits.float().log_softmax(dim=-1)
    else:
        state = _spread(common, len(prompt.input_ids))
        before = state.valid_all.shape[1]
        rows = pruned.embeddings(image_embeds, prompt)[:, before:]
        hidden = pruned.extend(state, rows, prompt.position_ids[..., before:])
        last = (prompt.lengths - before - 1)[:, None, None].expand(-1, 1, hidden.shape[2])
        step = pruned.head(hidden.gather(1, last)[:, 0]).float().log_softmax(dim=-1)
        state.valid_all = state.valid_kept = real_rows(prompt)
        state.next_position = prompt.next_position
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
        next_position=state.next_position.expand(rows),
        valid_all=state.valid_all.expand(rows, -1),
        valid_kept=state.valid_kept.expand(rows, -1),
        cache=dataclasses.replace(state.cache, layers=layers),
    )
