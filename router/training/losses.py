"""Losses of one batch: scores, gates, and the frozen model put together.

What it is: what is minimised, as a function of router, batch and budget: the divergence itself, whose gradient passes
gates, so that one pass judges all tokens and layers. Another `Objective` may stand in its place, for comparison.
What it knows: how a step's randomness, temperature and budget enter. What it does not know: optimisers, files, time.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from allrounder.router.decisions import HardDecisions, Quota, soft_layers, soft_top, straight_through
from allrounder.router.model import MetaRouter, Scores, gumbel
from allrounder.router.selection import best_indices, keep_counts, keep_indices, kept_layer_mask
from allrounder.router.training.forced import Forced, Gates, divergence, forced_rows, log_probs, narrow, repeat
from allrounder.router.training.objective import TrainOptions
from allrounder.router.training.references import Batch
from allrounder.versions import EVERYTHING, Keep
from allrounder.vlm.model import LoadedModel

__all__ = [
    "Found",
    "Learner",
    "Moment",
    "Objective",
    "StepLoss",
    "Work",
    "batch_loss",
    "decision_log_probs",
    "gate_loss",
]

# A closed token gate in training: shut enough that sharp attention does not see through it, and open enough that
# its gradient, which is that of the weight it would have got, does not underflow.
CLOSED = 1e-4


class Learner(NamedTuple):
    """Who takes part: the frozen ``vlm``, and the ``router`` that learns.

    ``frugal``: the model's layers are computed a second time for the gradient, and their insides not remembered.
    """

    vlm: LoadedModel
    router: MetaRouter
    options: TrainOptions
    frugal: bool = False


class Moment(NamedTuple):
    """Where a run stands: ``share`` of it done, 0 to 1; the ``budgets`` of this step; its source of chance."""

    share: float
    budgets: tuple[Quota, ...]
    generator: torch.Generator


class StepLoss(NamedTuple):
    """``loss`` has the gradient that is to be followed, and ``value`` is what is minimised.

    ``divergence`` [B] is that of the decisions each example's part came from, nats per token.
    """

    loss: Tensor
    value: float
    divergence: Tensor


class Work(NamedTuple):
    """What an objective starts from: a batch, its rows before layer K, the router's scores, and one budget."""

    batch: Batch
    forced: Forced
    scores: Scores
    budget: Quota


class Found(NamedTuple):
    """The ``loss`` of one budget, with its gradient, and the ``divergence`` [B] of the decisions that it came from."""

    loss: Tensor
    divergence: Tensor


Objective = Callable[[Learner, Work, Moment], Found]


def batch_loss(learner: Learner, batch: Batch, moment: Moment, objective: Objective) -> StepLoss:
    """Returns the loss of one batch.

    The model's part of the gradient is taken here, budget by budget, so that the memory is that of one budget; what is
    returned has the router's part left.
    """
    options = learner.options
    scores = learner.router(batch.embeddings.float(), batch.prompt)
    with torch.no_grad():
        forced = forced_rows(learner.vlm, batch.embeddings, batch.prompt, batch.answers, options.prune_layer)
    leaves = Scores(*(part.detach().requires_grad_() for part in scores))
    found = []
    for budget in moment.budgets:
        one = objective(learner, Work(batch, forced, leaves, budget), moment)
        if one.loss.requires_grad:  # nothing is left to choose where T = N and L = M
            with torch.autocast(one.loss.device.type, enabled=False):
                (one.loss / len(moment.budgets)).backward()
        found.append(Found(one.loss.detach(), one.divergence))
    value = float(sum(one.loss for one in found)) / len(found)
    carried = [
        (part.masked_fill(leaf.isneginf(), 0) * leaf.grad).sum()  # padding: its gradient is 0, and 0 x -inf is none
        for part, leaf in zip(scores, leaves, strict=True)
        if leaf.grad is not None
    ]
    loss = torch.stack([scores.token_scores.new_zeros(()), *carried]).sum()
    return StepLoss(loss, value, torch.stack([one.divergence for one in found]).mean(dim=0))


def decision_log_probs(vlm: LoadedModel, forced: Forced, decision: HardDecisions, prune_layer: int) -> Tensor:
    """Returns next-token log-probabilities [B x F, A, V] under F hard decisions of each of B prompts, side by side."""
    count = len(decision.keep) // len(forced.hidden)
    return log_probs(vlm, narrow(repeat(forced, count), decision.keep), prune_layer, Gates(layers=decision.layer_mask))


def gate_loss(learner: Learner, work: Work, moment: Moment) -> Found:
    """Returns the divergence itself, through token gates and hard layer gates with a soft gradient.

    Tokens: attention is sharp enough to see through half-open gates, so they are cold. Layers: many half-open layers
    are far better than fewer open ones, so a soft mask would teach the wrong thing. The noise makes the first decisions
    random ones, a strong baseline; the scores have to outgrow it.
    """
    options, gather = learner.options, learner.options.prune_layer
    forced, scores, budget = work.forced, work.scores, work.budget
    left = 1 - (1 - options.final_noise) * moment.share
    noise = Scores(*(left * gumbel(part, moment.generator) for part in scores))
    tokens, image_of = scores.token_scores + options.token_noise * noise.token_scores, forced.prompt.image_of
    counts = keep_counts(image_of, budget.keep)
    if (within := _window(budget.keep, options.window)) != EVERYTHING:
        chosen = keep_indices(tokens.detach(), image_of, within)
        forced, tokens = narrow(forced, chosen), tokens.gather(1, chosen.clamp_min(0))
        image_of = forced.prompt.image_of
    layers = scores.layer_scores + options.layer_noise * noise.layer_scores
    soft_mask = soft_layers(layers, budget.layers, gather, options.layer_temperature)
    mask = straight_through(kept_layer_mask(layers.detach(), budget.layers, gather), soft_mask)
    gates = soft_top(tokens, image_of, counts, options.token_temperature)
    if options.token_gates == "hard":
        gates = straight_through(_opened(gates, best_indices(tokens.detach(), image_of, counts)), gates)
    pruned = log_probs(learner.vlm, forced, gather, Gates(gates, mask), frugal=learner.frugal)
    found = divergence(work.batch.log_probs, pruned, forced.counted)
    return Found(found.mean(), found.detach())


def _window(keep: Keep, factor: float) -> Keep:
    """Returns what keeps ``factor`` times as many tokens of an image."""
    wider = Fraction(factor) * keep
    return round(wider) if isinstance(keep, int) else min(wider, EVERYTHING)


def _opened(gates: Tensor, chosen: Tensor) -> Tensor:
    """Returns gates [B, N] that are open where ``chosen`` int64 [B, T], padded with -1, and closed elsewhere."""
    places = chosen.where(chosen >= 0, gates.shape[1])
    return gates.new_full((len(gates), gates.shape[1] + 1), CLOSED).scatter(1, places, 1.0)[:, :-1]
