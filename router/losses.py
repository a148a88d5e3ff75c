"""Losses of one batch: scores, flows, the frozen host and an objective put together.

What it is: the four objectives of `objective`, each as a function of router, batch and budget.
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
    listwise_loss,
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
    """Who takes part: the frozen ``host``, the ``router`` that learns, and ``initial``, its frozen first state.

    ``frugal``: the host's layers are computed a second time for the gradient, and their insides not remembered.
    """

    host: Host
    router: MetaRouter
    initial: MetaRouter
    options: TrainOptions
    frugal: bool = False


class Moment(NamedTuple):
    """Where a run stands: ``share`` of it done, 0 to 1; the ``budgets`` of this step; its source of chance."""

    share: float
    budgets: tuple[Budget, ...]
    generator: torch.Generator


class StepLoss(NamedTuple):
    """``loss`` has the gradient that is to be followed, and ``value`` is what is minimised.

    ``divergence`` [B] is that of the flows each example's part came from, nats per token, if any.
    """

    loss: Tensor
    value: float
    divergence: Tensor | None


class Work(NamedTuple):
    """What the objectives start from: a batch, its rows before layer K, the router's scores, and one budget."""

    batch: Batch
    forced: Forced
    scores: Scores
    budget: Budget


class _Found(NamedTuple):
    loss: Tensor
    divergence: Tensor


def batch_loss(learner: Learner, batch: Batch, moment: Moment) -> StepLoss:
    """Returns the loss of one batch: that of the attention, and behind its share of the run the objective's as well.

    The host's part of the gradient is taken here, budget by budget, so that the memory is that of one budget; what is
    returned has the router's part left.
    """
    options = learner.options
    scores = learner.router(batch.embeddings.float(), batch.prompt)
    watched = scores.token_scores.new_zeros(())
    if batch.attention is not None:
        watched = attention_loss(scores.token_scores, batch.attention).mean()
    if moment.share < options.attention_share:
        return StepLoss(watched, float(watched.detach()), None)
    with torch.no_grad():
        forced = forced_rows(learner.host, batch.embeddings, batch.prompt, batch.answers, options.gather_layer)
    objective = _gate_loss if options.objective == "gate" else _sampled_loss
    leaves = Scores(*(part.detach().requires_grad_() for part in scores))
    found = []
    for budget in moment.budgets:
        one = objective(learner, Work(batch, forced, leaves, budget), moment)
        if one.loss.requires_grad:  # nothing is left to choose where T = N and L = M
            with torch.autocast(one.loss.device.type, enabled=False):
                (one.loss / len(moment.budgets)).backward()
        found.append(_Found(one.loss.detach(), one.divergence))
    value = float(sum(one.loss for one in found)) / len(found) + options.attention_weight * float(watched.detach())
    carried = [(part * leaf.grad).sum() for part, leaf in zip(scores, leaves, strict=True) if leaf.grad is not None]
    loss = torch.stack([options.attention_weight * watched, *carried]).sum()
    return StepLoss(loss, value, torch.stack([one.divergence for one in found]).mean(dim=0))


def flow_log_probs(host: Host, forced: Forced, flow: HardFlows, gather_layer: int) -> Tensor:
    """Returns next-token log-probabilities [B x F, A, V] under F hard flows of each of B prompts, side by side."""
    count = len(flow.keep) // len(forced.hidden)
    return log_probs(host, narrow(repeat(forced, count), flow.keep), gather_layer, Gates(layers=flow.plan))


def _gate_loss(learner: Learner, work: Work, moment: Moment) -> _Found:
    """The divergence itself, through soft token gates and hard layer gates with a soft gradient.

    Tokens: attention is sharp enough to see through half-open gates, so they are cold. Layers: many half-open layers
    are far better than fewer open ones, so a soft plan would teach the wrong thing. The noise makes the first flows
    random ones, a strong baseline; the scores have to outgrow it.
    """
    options, gather = learner.options, learner.options.gather_layer
    forced, scores, budget = work.forced, work.scores, work.budget
    left = 1 - (1 - options.final_noise) * moment.share
    noise = Scores(*(left * gumbel(part, moment.generator) for part in scores))
    tokens = scores.token_scores + options.token_noise * noise.token_scores
    within = round(options.window * budget.tokens)
    if within < tokens.shape[1]:
        chosen = keep_list(tokens.detach(), within)
        forced, tokens = narrow(forced, chosen), tokens.gather(1, chosen)
    layers = scores.layer_scores + options.layer_noise * noise.layer_scores
    soft_plan = soft_layers(layers, budget.layers, gather, options.layer_temperature)
    plan = straight_through(layer_plan(layers.detach(), budget.layers, gather), soft_plan)
    gates = soft_top(tokens, budget.tokens, options.token_temperature)
    if options.token_gates == "hard":
        kept = torch.full_like(gates, CLOSED).scatter(1, keep_list(tokens.detach(), budget.tokens), 1.0)
        gates = straight_through(kept, gates)
    pruned = log_probs(learner.host, forced, gather, Gates(gates, plan), frugal=learner.frugal)
    found = divergence(work.batch.log_probs, pruned, forced.counted)
    return _Found(found.mean(), found.detach())


def _sampled_loss(learner: Learner, work: Work, moment: Moment) -> _Found:
    options, gather = learner.options, learner.options.gather_layer
    batch, forced, scores, budget = work
    rows, count = batch.embeddings.float(), options.flows
    with torch.no_grad():
        noise = Noise(options.attention_noise, options.score_noise, moment.generator)
        drawn = sample(learner.router, rows, batch.prompt, count, noise)
        flow = cut(drawn, budget, gather)
        pruned = flow_log_probs(learner.host, forced, flow, gather).unflatten(0, (-1, count))
        found = torch.stack([divergence(batch.log_probs, pruned[:, one], forced.counted) for one in range(count)], 1)
        kept = torch.zeros_like(drawn.token_scores, dtype=torch.bool).scatter(1, flow.keep, value=True)
        picked = Picked(kept, flow.plan[:, gather:])
    log_prob = flow_log_prob(_repeated(scores, count), picked, gather).view(-1, count)
    if options.objective == "policy":
        loss = policy_loss(log_prob, found)
    elif options.objective == "listwise":
        loss = listwise_loss(log_prob, found, options.listwise_scale, options.listwise_temperature)
    else:
        loss = _preference(learner, batch, picked, (log_prob, found))
    token_gap, layer_gap = sparsity(scores, budget, gather)
    total = loss + options.token_sparsity * token_gap + options.layer_sparsity * layer_gap
    return _Found(total.mean(), found.mean(dim=1))


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
