"""Teacher-forced runs of the frozen model under decisions, hard or soft: what training needs of the model.

They give next-token distributions along a known answer, for many decisions of many prompts at once, differentiable in
the gates. Layers below K are run once and shared by all decisions. Rows are ``[prefix | V | suffix, answer]``, padded
on the right; a dropped token leaves from layer K on and keeps its position; a skipped layer is the identity. Gates in
[0, 1] soften both: a token's gate is the weight that its keys carry in attention, a layer's gate the share of its
update that is applied. `allrounder.vlm.pruned` is the reference without gradients; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from allrounder.router.gated import run_layer
from allrounder.vlm.model import LoadedModel
from allrounder.vlm.prompt import PromptBatch

__all__ = [
    "Answers",
    "Forced",
    "Gates",
    "divergence",
    "forced_rows",
    "log_probs",
    "narrow",
    "repeat",
]


class Answers(NamedTuple):
    """The unpruned model's own answers: ``ids`` int64 [B, A] padded on the right, ``lengths`` int64 [B], 1 to A."""

    ids: Tensor
    lengths: Tensor


class Forced(NamedTuple):
    """Prompts with their answers behind them, as they are before layer K.

    ``hidden`` [B, R, H]; ``positions`` int64 [B, R]; ``reads`` int64 [B, A], the rows whose logits predict the answer;
    ``counted`` bool [B, A], False behind an answer's end; the image tokens that are still there are in rows
    ``start`` to ``start + tokens - 1``.
    """

    hidden: Tensor
    positions: Tensor
    reads: Tensor
    counted: Tensor
    start: int
    tokens: int


class Gates(NamedTuple):
    """How much of the model is there: ``tokens`` float [B, T] and ``layers`` float [B, M], in [0, 1]; None is all ones.

    Bool ``layers`` are a hard decision: a skipped layer is then not even computed.
    """

    tokens: Tensor | None = None
    layers: Tensor | None = None


def forced_rows(
    vlm: LoadedModel, embeddings: Tensor, prompt: PromptBatch, answers: Answers, prune_layer: int
) -> Forced:
    """Puts the answers behind the prompts and runs layers 0 to K-1.

    Args:
        vlm: The frozen model.
        embeddings: [B, P + N + S, H], rows ``[prefix | V | suffix]``, suffixes padded on the right.
        prompt: The ids behind them; only P and the suffix lengths are read.
        answers: Their last ids are only predicted, never read.
        prune_layer: K.
    """
    batch, _, width = embeddings.shape
    image_embeds, start = vlm.spec.image_tokens, prompt.prefix_ids.shape[1]
    ends = start + image_embeds + prompt.suffix_lengths
    inputs = vlm.model.get_input_embeddings()(answers.ids[:, :-1]).to(embeddings.dtype)
    extra = inputs.shape[1]
    hidden = torch.cat([embeddings, embeddings.new_zeros(batch, extra, width)], dim=1)
    slots = ends[:, None] + torch.arange(extra, device=ends.device)
    hidden = hidden.scatter(1, slots[..., None].expand(-1, -1, width), inputs)
    every = torch.arange(hidden.shape[1], device=ends.device)
    forced = Forced(
        hidden,
        every.expand(batch, -1),
        ends[:, None] - 1 + torch.arange(extra + 1, device=ends.device),
        torch.arange(extra + 1, device=ends.device) < answers.lengths[:, None],
        start,
        image_embeds,
    )
    return forced._replace(hidden=_run(vlm, forced, range(prune_layer), Gates()))


def log_probs(vlm: LoadedModel, forced: Forced, prune_layer: int, gates: Gates, *, frugal: bool = False) -> Tensor:
    """Runs layers K to M-1 under ``gates`` and returns next-token log-probabilities float32 [B, A, V].

    Args:
        vlm: The frozen model.
        forced: Rows as they are before layer K.
        prune_layer: K.
        gates: What is there of tokens and layers.
        frugal: Remember only the rows between layers; the gradient then computes each layer a second time.
    """
    layers = range(prune_layer, len(_decoder(vlm).layers))
    return _predicted(vlm, forced, _run(vlm, forced, layers, gates, frugal=frugal))


def narrow(forced: Forced, keep: Tensor) -> Forced:
    """Removes all image tokens but those of ``keep`` int64 [B, T], ascending."""
    text = torch.arange(forced.hidden.shape[1], device=keep.device).expand(len(keep), -1)
    behind = forced.start + forced.tokens
    rows = torch.cat([text[:, : forced.start], forced.start + keep, text[:, behind:]], dim=1)
    return forced._replace(
        hidden=forced.hidden.gather(1, rows[..., None].expand(-1, -1, forced.hidden.shape[2])),
        positions=forced.positions.gather(1, rows),
        reads=forced.reads - (forced.tokens - keep.shape[1]),
        tokens=keep.shape[1],
    )


def repeat(forced: Forced, times: int) -> Forced:
    """Repeats every prompt ``times`` times, its copies next to each other."""
    rows = ("hidden", "positions", "reads", "counted")
    return forced._replace(**{name: getattr(forced, name).repeat_interleave(times, dim=0) for name in rows})


def divergence(reference: Tensor, pruned: Tensor, counted: Tensor) -> Tensor:
    """Returns the mean KL(reference || pruned) along each answer, nats per token, float32 [B].

    Args:
        reference: Log-probabilities [B, A, V] of the unpruned model.
        pruned: The same of a decision.
        counted: bool [B, A].
    """
    each = (reference.exp() * (reference - pruned)).sum(dim=-1)
    return torch.where(counted, each, 0).sum(dim=1) / counted.sum(dim=1)


def _predicted(vlm: LoadedModel, forced: Forced, hidden: Tensor) -> Tensor:
    read = hidden.gather(1, forced.reads[..., None].expand(-1, -1, hidden.shape[2]))
    return vlm.model.lm_head(_decoder(vlm).norm(read)).float().log_softmax(dim=-1)


def _run(vlm: LoadedModel, forced: Forced, layers: range, gates: Gates, *, frugal: bool = False) -> Tensor:
    decoder, hidden = _decoder(vlm), forced.hidden
    if not layers:
        return hidden
    cosine, sine = decoder.rotary_emb(hidden, forced.positions)
    keys = None if gates.tokens is None else _of_rows(forced, gates.tokens)

    def layer(index: int, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
        if rows is None:
            return run_layer(decoder, index, hidden, (cosine, sine), keys, frugal=frugal)
        chosen = None if keys is None else keys[rows]
        return run_layer(decoder, index, hidden[rows], (cosine[rows], sine[rows]), chosen, frugal=frugal)

    for index in layers:
        gate = None if gates.layers is None else gates.layers[:, index]
        if gate is None:
            hidden = layer(index, hidden)
        elif gate.dtype == torch.bool:
            hidden = _skipped(partial(layer, index), hidden, gate)
        else:
            hidden = _gated(partial(layer, index), hidden, gate)
    return hidden


Layer = Callable[..., Tensor]  # (hidden [B, R, H], the batch rows to run or None for all) -> those rows, updated


def _skipped(layer: Layer, hidden: Tensor, gate: Tensor) -> Tensor:
    """Runs a layer on the prompts that keep it; the others cost nothing."""
    rows = gate.nonzero().flatten()
    if len(rows) == len(hidden):
        return layer(hidden)
    return hidden.index_copy(0, rows, layer(hidden, rows)) if len(rows) else hidden


def _gated(layer: Layer, hidden: Tensor, gate: Tensor) -> Tensor:
    """Applies a share of a layer's update, [B]. Where the share is 0 no gradient passes the layer, but its own does."""
    shut = gate.detach() == 0
    if not bool(shut.any()):
        change = layer(hidden) - hidden
    else:
        opened, closed = (~shut).nonzero().flatten(), shut.nonzero().flatten()
        with torch.no_grad():
            parts = [(layer(hidden, closed) - hidden[closed])]
        if len(opened):
            parts.append(layer(hidden, opened) - hidden[opened])
        change = torch.cat(parts)[torch.cat([closed, opened]).argsort()]
    return hidden + gate[:, None, None].to(hidden.dtype) * change


def _of_rows(forced: Forced, token_gates: Tensor) -> Tensor:
    """Returns the gates of all rows [B, R]: those of text are ones."""
    behind = forced.hidden.shape[1] - forced.start - forced.tokens
    return nn.functional.pad(token_gates, (forced.start, behind), value=1.0)


def _decoder(vlm: LoadedModel) -> Any:
    return vlm.model.model.language_model
