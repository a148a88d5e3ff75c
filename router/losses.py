"""Losses of one batch: scores, flows, the frozen host and an objective put together.

What it is: the three objectives of `objective`, each as a function of router, batch and budget.
What it knows: how a step's randomness, temperature and budget enter. What it does not know: optimisers, files, time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from allrounder.hosts.host import Host
from allrounder.router.flows import HardFlows, cut, sample, soft_layers, soft_top, straight_through
from allrounder.router.forced import Forced, Gates, divergence, forced_rows, log_probs, narrow, repeat
from allrounder.router.model import MetaRouter, Noise, Scores, gumbel
from allrounder.router.objective import (
    Picked,
    TrainOptions,
    attention_loss,
    flow_log_prob,
    policy_loss,
    preference_loss,
    sparsity,
)
from allrounder.router.references import Batch
from allrounder.router.selection import keep_list, layer_plan
from allrounder.versions import Budget

__all__ = ["Learner", "Moment", "StepLoss", "batch_loss", "flow_log_probs"]

# A closed token gate in training: shut enough that sharp attention does not see through it, and open enough that
# its gradient, which is that of the weight it would have got, does not underflow.
CLOSED = 1e-4


class Learner(NamedTuple):
    """Who takes part: the frozen ``host``, the ``router`` that learns, and ``initial``, its frozen first state."""

    host: Host
    router: MetaRouter
    initial: MetaRouter
    options: TrainOptions


class Moment(NamedTuple):
    """Where a run stands: ``share`` of it done, 0 to 1; the ``budget`` of this step; its source of chance."""

    share: float
    budget: Budget
    generator: torch.Generator


class StepLoss(NamedTuple):
    """``loss`` is to be minimised; ``divergence`` is that of the flows it came from, nats per token, if any."""

    loss: Tensor
    divergence: float | None


class Work(NamedTuple):
    """What the objectives start from: a batch, its rows before layer K, and the router's scores with gradient."""

    batch: Batch
    forced: Forced
    scores: Scores


def batch_loss(learner: Learner, batch: Batch, moment: Moment) -> StepLoss:
    """Returns the loss of one batch: that of the attention, and behind its share of the run the objective's as well."""
    options = learner.options
    scores = learner.router(batch.embeddings.float(), batch.prompt)
    watched = scores.token_scores.new_zeros(())
    if batch.attention is not None:
        watched = attention_loss(scores.token_scores, batch.attention).mean()
    if moment.share < options.attention_share:
        return StepLoss(watched, None)
    with torch.no_grad():
        forced = forced_rows(learner.host, batch.embeddings, batch.prompt, batch.answers, options.gather_layer)
    objective = _gate_loss if options.objective == "gate" else _sampled_loss
    found = objective(learner, Work(batch, forced, scores), moment)
    return StepLoss(found.loss + options.attention_weight * watched, found.divergence)


def flow_log_probs(host: Host, forced: Forced, flow: HardFlows, gather_layer: int) -> Tensor:
    """Returns next-token log-probabilities [B x F, A, V] under F hard flows of each of B prompts, side by side."""
    count = len(flow.keep) // len(forced.hidden)
    return log_probs(host, narrow(repeat(forced, count), flow.keep), gather_layer, Gates(layers=flow.plan))


def _gate_loss(learner: Learner, work: Work, moment: Moment) -> StepLoss:
    """The divergence itself, through soft token gates and hard layer gates with a soft gradient.

    Tokens: attention is sharp enough to see through half-open gates, so they are cold. Layers: many half-open layers
    are far better than fewer open ones, so a soft plan would teach the wrong thing. The noise makes the first flows
    random ones, a strong baseline; the scores have to outgrow it.
    """
    options, gather = learner.options, learner.options.gather_layer
    forced, scores = work.forced, work.scores
    left = 1 - (1 - options.final_noise) * moment.share
    noise = Scores(*(left * gumbel(part, moment.generator) for part in scores))
    tokens = scores.token_scores + options.token_noise * noise.token_scores
    within = round(options.window * moment.budget.tokens)
    if within < tokens.shape[1]:
        chosen = keep_list(tokens.detach(), within)
        forced, tokens = narrow(forced, chosen), tokens.gather(1, chosen)
    layers = scores.layer_scores + options.layer_noise * noise.layer_scores
    soft_plan = soft_layers(layers, moment.budget.layers, gather, options.layer_temperature)
    plan = straight_through(layer_plan(layers.detach(), moment.budget.layers, gather), soft_plan)
    gates = soft_top(tokens, moment.budget.tokens, options.token_temperature)
    if options.token_gates == "hard":
        kept = torch.full_like(gates, CLOSED).scatter(1, keep_list(tokens.detach(), moment.budget.tokens), 1.0)
        gates = straight_through(kept, gates)
    pruned = log_probs(learner.host, forced, gather, Gates(gates, plan))
    loss = divergence(work.batch.log_probs, pruned, forced.counted).mean()
    return StepLoss(loss, float(loss.detach()))


def _sampled_loss(learner: Learner, work: Work, moment: Moment) -> StepLoss:
    options, gather = learner.options, learner.options.gather_layer
    batch, forced, scores = work
    rows, count = batch.embeddings.float(), options.flows
    with torch.no_grad():
        noise = Noise(options.attention_noise, options.score_noise, moment.generator)
        drawn = sample(learner.router, rows, batch.prompt, count, noise)
        flow = cut(drawn, moment.budget, gather)
        pruned = flow_log_probs(learner.host, forced, flow, gather).unflatten(0, (-1, count))
        found = torch.stack([divergence(batch.log_probs, pruned[:, one], forced.counted) for one in range(count)], 1)
        kept = torch.zeros_like(drawn.token_scores, dtype=torch.bool).scatter(1, flow.keep, value=True)
        picked = Picked(kept, flow.plan[:, gather:])
    log_prob = flow_log_prob(_repeated(scores, count), picked, gather).view(-1, count)
    if options.objective == "policy":
        loss = policy_loss(log_prob, found)
    else:
        loss = _preference(learner, batch, picked, (log_prob, found))
    token_gap, layer_gap = sparsity(scores, moment.budget, gather)
    total = loss + options.token_sparsity * token_gap + options.layer_sparsity * layer_gap
    return StepLoss(total.mean(), float(found.mean()))


def _preference(learner: Learner, batch: Batch, picked: Picked, flows: tuple[Tensor, Tensor]) -> Tensor:
    """Returns the preference loss [B] of the closest flow over the farthest one; flows: log-probs and divergences."""
    log_prob, found = flows
    best, worst = found.argmin(dim=1, keepdim=True), found.argmax(dim=1, keepdim=True)
    if not learner.options.reference_free:
        count = log_prob.shape[1]
        with torch.no_grad():
            initial = _repeated(learner.initial(batch.embeddings.float(), batch.prompt), count)
            log_prob = log_prob - flow_log_prob(initial, picked, learner.options.gather_layer).view(-1, count)
    return preference_loss(log_prob.gather(1, best), log_prob.gather(1, worst), learner.options.beta).squeeze(1)


def _repeated(scores: Scores, count: int) -> Scores:
    return Scores(*(part.repeat_interleave(count, dim=0) for part in scores))
