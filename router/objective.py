"""Objectives: what the router is trained for.

What it is: pure functions from scores, flows and divergences to a loss, and the record of all options.
What it knows: four objectives. ``preference`` is our reading of PAR's (its formula is not released): a Bernoulli
policy over tokens and layers, the flow closest to the unpruned host preferred to the farthest one against the frozen
initial router (DPO), with sparsity terms. ``policy`` weighs every sampled flow by how much better it is than its
siblings. ``listwise`` fits the policy's distribution over all sampled flows to one made of their divergences (ListNet,
Cao et al. 2007). ``gate`` sends the divergence's own gradient through gates: one pass judges all tokens and layers.
Beside each of them token scores may be fitted to the host's own attention while it answers, which costs little.
What it does not know: hosts, batches, optimisers.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn

from allrounder.router.model import AttentionKind, Scores
from allrounder.versions import Budget

__all__ = [
    "Objective",
    "Picked",
    "TrainOptions",
    "attention_loss",
    "flow_log_prob",
    "listwise_loss",
    "needs_initial",
    "policy_loss",
    "preference_loss",
    "sparsity",
]

Objective = Literal["gate", "preference", "policy", "listwise"]
Positive = Annotated[int, Meta(ge=1)]
PositiveFloat = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


class TrainOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides what is learned; a resumed run must have the same.

    Budgets are names of versions (or ``t<T>-l<L>``); each step draws ``budgets_per_step`` different ones of them, which
    cost a pass of the host each. ``attention_noise``, ``score_noise`` and all below them up to ``gate`` are for the
    objectives that sample flows. The default objective is the one that was measured best on the demo host, not the
    paper's, which is ``preference``.
    """

    objective: Objective = "gate"
    attention: AttentionKind = "causal"
    router_layers: Positive = 1
    start: Literal["fresh", "host"] = "fresh"  # weights of the router's layers: drawn, or the host's first ones
    gather_layer: Annotated[int, Meta(ge=0)] = 2
    budgets: tuple[str, ...] = ("par-base", "par-lite", "par-nano")
    budgets_per_step: Positive = 1
    batch: Positive = 4
    accumulate: Positive = 1  # batches per optimiser step
    focus: Annotated[float, Meta(ge=0, lt=1)] = 0.0  # share of a batch drawn again among what diverged when last seen
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Meta(ge=0)] = 0.01
    warmup: Share = 0.03  # share of the run
    seed: Annotated[int, Meta(ge=0)] = 0
    # preference, policy and listwise
    flows: Annotated[int, Meta(ge=2)] = 8  # per prompt
    attention_noise: Annotated[float, Meta(ge=0)] = 1.0  # standard deviation on attention logits (PAR: 1)
    score_noise: Annotated[float, Meta(ge=0)] = 0.5  # scale of Gumbel noise on scores
    beta: PositiveFloat = 0.1  # preference: how sharply
    listwise_scale: PositiveFloat = (
        10.0  # listwise: what log-probabilities of flows, which lie close, are multiplied by
    )
    listwise_temperature: PositiveFloat = 0.5  # of what is to be fitted, in standard deviations of the divergences
    reference_free: bool = False  # preference without the frozen initial router
    token_sparsity: Annotated[float, Meta(ge=0)] = 0.1
    layer_sparsity: Annotated[float, Meta(ge=0)] = 0.1
    # gate
    window: Annotated[float, Meta(ge=1)] = 2.0  # the best window x T tokens stay and get gates, the others are dropped
    token_gates: Literal["hard", "soft"] = "hard"  # forwards; the gradient is that of the soft gates in both cases
    token_temperature: PositiveFloat = 0.3
    layer_temperature: PositiveFloat = 1.0  # of the layer gates, whose forward pass is always hard
    token_noise: Annotated[float, Meta(ge=0)] = 1.0  # scale of the Gumbel noise on scores under the gates
    layer_noise: Annotated[float, Meta(ge=0)] = 1.0
    final_noise: Share = 0.2  # what is left of both at the end
    # attention, beside any objective
    attention_share: Share = 0.0  # first share of the run in which nothing else is learned
    attention_weight: Annotated[float, Meta(ge=0)] = 0.0  # of that loss afterwards


def needs_initial(options: TrainOptions) -> bool:
    """Returns whether the objective compares the router with its first state."""
    return options.objective == "preference" and not options.reference_free


class Picked(NamedTuple):
    """A flow as masks: ``tokens`` bool [B, N], ``layers`` bool [B, M - K], the layers below K being no choice."""

    tokens: Tensor
    layers: Tensor


def flow_log_prob(scores: Scores, picked: Picked, gather_layer: int) -> Tensor:
    """Returns log-probabilities [B] of flows under the Bernoulli policy sigmoid(scores), each group as its mean.

    Args:
        scores: Of B prompts.
        picked: One flow for each.
        gather_layer: K; scores below it take no part.
    """
    tokens = _bernoulli(scores.token_scores, picked.tokens)
    return tokens + _bernoulli(scores.layer_scores[:, gather_layer:], picked.layers)


def preference_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Returns -log sigmoid(beta x (chosen - rejected)) [B].

    Args:
        chosen: log pi(S+) - log pi_ref(S+), [B]; without the reference, log pi(S+).
        rejected: The same of S-.
        beta: How sharply.
    """
    return -nn.functional.logsigmoid(beta * (chosen - rejected))


def policy_loss(log_probs: Tensor, divergences: Tensor) -> Tensor:
    """Returns the group-relative policy loss [B]: flows better than their siblings gain, the others lose.

    Args:
        log_probs: [B, F] of the flows, with gradient.
        divergences: [B, F] from the unpruned host, lower is better.
    """
    spread = divergences.std(dim=1, keepdim=True).clamp_min(1e-8)
    advantage = (divergences.mean(dim=1, keepdim=True) - divergences) / spread
    return -(advantage.detach() * log_probs).mean(dim=1)


def listwise_loss(log_probs: Tensor, divergences: Tensor, scale: float, temperature: float) -> Tensor:
    """Returns KL(softmax(-divergences / temperature) || softmax(scale x log_probs)), [B].

    Divergences are measured in their own standard deviation, prompt by prompt. Unlike the policy's gradient this one
    has an end: it is zero where the policy's odds between any two flows are those that their divergences ask for.

    Args:
        log_probs: [B, F] of the flows, with gradient.
        divergences: [B, F] from the unpruned host, lower is better.
        scale: Of the log-probabilities.
        temperature: Towards 0 the closest flow alone is wanted.
    """
    spread = divergences.std(dim=1, keepdim=True).clamp_min(1e-8)
    wanted = (-divergences.detach() / (temperature * spread)).log_softmax(dim=1)
    return (wanted.exp() * (wanted - (scale * log_probs).log_softmax(dim=1))).sum(dim=1)


def attention_loss(token_scores: Tensor, attention: Tensor) -> Tensor:
    """Returns the cross-entropy [B] of softmax(token_scores) from the host's attention, made to sum to one.

    Its optimum is the logarithm of the expected attention, given what the scores may see: with causal attention the
    mean over the questions that could be asked.

    Args:
        token_scores: [B, N].
        attention: [B, N], not negative.
    """
    wanted = attention / attention.sum(dim=1, keepdim=True).clamp_min(1e-12)
    return -(wanted * token_scores.log_softmax(dim=1)).sum(dim=1)


def sparsity(scores: Scores, budget: Budget, gather_layer: int) -> tuple[Tensor, Tensor]:
    """Returns how far the policy's mean probabilities are from the budget's shares, tokens [B] and layers [B]."""
    tokens = torch.sigmoid(scores.token_scores)
    layers = torch.sigmoid(scores.layer_scores[:, gather_layer:])
    token_gap = (tokens.mean(dim=1) - budget.tokens / tokens.shape[1]).abs()
    layer_gap = (layers.mean(dim=1) - (budget.layers - gather_layer) / layers.shape[1]).abs()
    return token_gap, layer_gap


def _bernoulli(scores: Tensor, picked: Tensor) -> Tensor:
    return torch.where(picked, nn.functional.logsigmoid(scores), nn.functional.logsigmoid(-scores)).mean(dim=1)
