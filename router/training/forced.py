"""Teacher-forced runs of the frozen model under decisions, hard or soft: what training needs of the model.

What it is: what training needs of the model: next-token distributions along a known answer, for many decisions of many
prompts at once, differentiable in the gates. Layers below K are run once and shared by all decisions.
What it knows: prompts with their answers right behind them, padded on the right; that a dropped token leaves from layer
K on and keeps its position; that a skipped layer is the identity. Gates in [0, 1] soften both: a token's gate is the
weight that its keys carry in attention, a layer's gate the share of its update that is applied.
What it does not know: where gates come from. `allrounder.vlm.pruned` is the reference without gradients; a test
holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from allrounder.router.gated import run_layer
from allrounder.vlm.model import LoadedModel
from allrounder.vlm.prompt import PromptBatch, kept_rows, rope_positions

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
    """Prompts with their answers behind them, as they stand before layer K.

    ``hidden`` [B, R, H]; ``prompt``, the answers' rows included, with the image tokens that are still there; ``reads``
    int64 [B, A], the rows whose logits predict the answer; ``counted`` bool [B, A], False behind an answer's end.
    """

    hidden: Tensor
    prompt: PromptBatch
    reads: Tensor
    counted: Tensor


class Gates(NamedTuple):
    """How much of the model is there: ``tokens`` float [B, N] and ``layers`` float [B, M], in [0, 1]; None is all ones.

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
        embeddings: [B, R, H], the prompts' rows.
        prompt: B prompts.
        answers: Their last ids are only predicted, never read.
        prune_layer: K.
    """
    width = embeddings.shape[2]
    inputs = vlm.model.get_input_embeddings()(answers.ids[:, :-1]).to(embeddings.dtype)
    steps = torch.arange(answers.ids.shape[1], device=embeddings.device)
    slots = prompt.lengths[:, None] + steps[:-1]
    hidden = nn.functional.pad(embeddings, (0, 0, 0, len(steps) - 1))
    hidden = hidden.scatter(1, slots[..., None].expand(-1, -1, width), inputs)
    reads, counted = prompt.lengths[:, None] - 1 + steps, steps < answers.lengths[:, None]
    forced = Forced(hidden, prompt.appended(answers.ids[:, :-1]), reads, counted)
    return forced._replace(hidden=_run(vlm, forced, range(prune_layer), Gates()))


def log_probs(vlm: LoadedModel, forced: Forced, prune_layer: int, gates: Gates, *, frugal: bool = False) -> Tensor:
    """Runs layers K to M-1 under ``gates`` and returns next-token log-probabilities float32 [B, A, V].

    Args:
        vlm: The frozen model.
        forced: Rows as they stand before layer K.
        prune_layer: K.
        gates: What is there of tokens and layers.
        frugal: Remember only what stands between layers; the gradient then computes each layer a second time.
    """
    layers = range(prune_layer, len(vlm.decoder.layers))
    return _predicted(vlm, forced, _run(vlm, forced, layers, gates, frugal=frugal))


def narrow(forced: Forced, keep: Tensor) -> Forced:
    """Removes all image tokens but those of ``keep`` int64 [B, T], ascending, padded with -1."""
    order, prompt = kept_rows(forced.prompt, keep)
    dropped = forced.prompt.lengths - prompt.lengths
    return forced._replace(
        hidden=forced.hidden.gather(1, order[..., None].expand(-1, -1, forced.hidden.shape[2])),
        prompt=prompt,
        reads=forced.reads - dropped[:, None],  # an answer follows all image tokens
    )


def repeat(forced: Forced, times: int) -> Forced:
    """Repeats every prompt ``times`` times, its copies next to each other."""
    hidden, reads, counted = (
        part.repeat_interleave(times, dim=0) for part in (forced.hidden, forced.reads, forced.counted)
    )
    return Forced(hidden, forced.prompt.interleaved(times), reads, counted)


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
    return vlm.model.lm_head(vlm.decoder.norm(read)).float().log_softmax(dim=-1)


def _run(vlm: LoadedModel, forced: Forced, layers: range, gates: Gates, *, frugal: bool = False) -> Tensor:
    decoder, hidden = vlm.decoder, forced.hidden
    if not layers:
        return hidden
    cosine, sine = decoder.rotary_emb(hidden, rope_positions(forced.prompt.position_ids))
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
    batch, rows = forced.prompt.input_ids.shape
    places = forced.prompt.image_index.where(forced.prompt.image_index >= 0, rows)
    return token_gates.new_ones(batch, rows + 1).scatter(1, places, token_gates)[:, :rows]
