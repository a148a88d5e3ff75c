"""Other objectives than the router's own: sampled decisions, run without a gradient, judged by their divergence.

What it is: `preference`, our reading of PAR's (its formula is not released): the decision closest to the unpruned model
is preferred to the farthest one (DPO) against the frozen first router, or free of it; `policy`: every decision is
weighed by how much better it is than its siblings; `listwise`: the policy's distribution over all decisions is fitted
to one made of their divergences (ListNet, Cao et al. 2007). All of them under a Bernoulli policy over tokens and
layers, with two terms that draw it to the budget. Each is an `allrounder.router.training.losses.Objective`. What it
does not know: how it compares (``router_ablations.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from allrounder.router.decisions import cut
from allrounder.router.model import MetaRouter, Scores, gumbel
from allrounder.router.training.forced import divergence
from allrounder.router.training.losses import Found, Learner, Moment, Objective, Work, decision_log_probs
from allrounder.router.training.references import Batch
from allrounder.router.training.start import first_router

DECISIONS = 8  # per prompt
ATTENTION_NOISE = 1.0  # standard deviation on attention logits (PAR: 1)
SCORE_NOISE = 0.5  # scale of Gumbel noise on scores: top-k of such scores is sampling without replacement
BETA = 0.1  # preference: how sharply
SCALE, TEMPERATURE = 10.0, 0.5  # listwise: of log-probabilities of decisions, which lie close; of what is to be fitted
SPARSITY = 0.1

Judge = Callable[[Tensor, Tensor], Tensor]  # (log-probabilities [B, F], divergences [B, F]) -> loss [B]


class Picked(NamedTuple):
    """A decision as masks: ``tokens`` bool [B, N], ``layers`` bool [B, M - K], the layers below K being no choice."""

    tokens: Tensor
    layers: Tensor


def objectives() -> dict[str, Objective]:
    """Returns all of them by name."""
    named: dict[str, tuple[Judge, bool]] = {
        "preference": (preference_loss, True),
        "reference-free": (preference_loss, False),
        "policy": (policy_loss, False),
        "listwise": (listwise_loss, False),
    }
    return {name: partial(_sampled, *how) for name, how in named.items()}


def _sampled(judge: Judge, referenced: bool, learner: Learner, work: Work, moment: Moment) -> Found:
    """Returns what ``judge`` makes of `DECISIONS` noisy decisions, and the terms that draw the policy to the budget."""
    gather, (batch, forced, scores, budget) = learner.options.prune_layer, work
    with torch.no_grad():
        drawn = noisy_scores(learner.router, batch, moment.generator)
        image_of = batch.prompt.interleaved(DECISIONS).image_of
        decision = cut(drawn, image_of, budget, gather)
        pruned = decision_log_probs(learner.vlm, forced, decision, gather).unflatten(0, (-1, DECISIONS))
        found = torch.stack(
            [divergence(batch.log_probs, pruned[:, one], forced.counted) for one in range(DECISIONS)], 1
        )
        places = decision.keep.where(decision.keep >= 0, image_of.shape[1])
        kept = nn.functional.pad(torch.zeros_like(image_of, dtype=torch.bool), (0, 1)).scatter(1, places, value=True)[
            :, :-1
        ]
        share = kept[::DECISIONS].sum(dim=1) / (image_of[::DECISIONS] >= 0).sum(dim=1).clamp_min(1)
        picked = Picked(kept, decision.layer_mask[:, gather:])
    log_probs = decision_log_prob(_repeated(scores), picked, gather)
    if referenced:  # against the frozen first router, which the seed gives again
        with torch.no_grad():
            first = first_router(learner.vlm, learner.options, None)(batch.embeddings.float(), batch.prompt)
            log_probs = log_probs - decision_log_prob(_repeated(first), picked, gather)
    loss = judge(log_probs.view(-1, DECISIONS), found) + SPARSITY * sum(sparsity(scores, share, budget.layers, gather))
    return Found(loss.mean(), found.mean(dim=1))


def noisy_scores(router: MetaRouter, batch: Batch, generator: torch.Generator) -> Scores:
    """Returns noisy scores, `DECISIONS` per prompt next to each other: [B x Decisions, N] and [B x Decisions, M]."""

    def disturb(layer: nn.Module, inputs: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        del layer
        mask = named["attention_mask"]
        shape = (len(mask), router.config.num_attention_heads, *mask.shape[2:])
        drawn = torch.randn(shape, generator=generator, device=mask.device, dtype=mask.dtype)
        return inputs, named | {"attention_mask": mask + ATTENTION_NOISE * drawn}

    prompts = batch.prompt.interleaved(DECISIONS)
    hooks = [layer.register_forward_pre_hook(disturb, with_kwargs=True) for layer in router.layers]
    try:
        scores = router(batch.embeddings.float().repeat_interleave(DECISIONS, dim=0), prompts)
    finally:
        for hook in hooks:
            hook.remove()
    return Scores(*(part + SCORE_NOISE * gumbel(part, generator) for part in scores))


def decision_log_prob(scores: Scores, picked: Picked, prune_layer: int) -> Tensor:
    """Returns log-probabilities [B] of decisions under the Bernoulli policy sigmoid(scores), each group as its mean.

    Args:
        scores: Of B prompts.
        picked: One decision for each.
        prune_layer: K; scores below it take no part.
    """
    tokens = _bernoulli(scores.token_scores, picked.tokens)
    return tokens + _bernoulli(scores.layer_scores[:, prune_layer:], picked.layers)


def preference_loss(log_probs: Tensor, divergences: Tensor) -> Tensor:
    """Returns -log sigmoid(beta x (closest - farthest)) [B] of ``log_probs`` [B, F] by ``divergences`` [B, F]."""
    best, worst = divergences.argmin(dim=1, keepdim=True), divergences.argmax(dim=1, keepdim=True)
    margin = log_probs.gather(1, best) - log_probs.gather(1, worst)
    return -nn.functional.logsigmoid(BETA * margin).squeeze(1)


def policy_loss(log_probs: Tensor, divergences: Tensor) -> Tensor:
    """Returns the group-relative policy loss [B]: decisions better than their siblings gain, the others lose."""
    spread = divergences.std(dim=1, keepdim=True).clamp_min(1e-8)
    advantage = (divergences.mean(dim=1, keepdim=True) - divergences) / spread
    return -(advantage.detach() * log_probs).mean(dim=1)


def listwise_loss(log_probs: Tensor, divergences: Tensor) -> Tensor:
    """Returns KL(softmax(-divergences / temperature) || softmax(scale x log_probs)), [B].

    Divergences are measured in their own standard deviation, prompt by prompt. Unlike the policy's gradient this one
    has an end: it is zero where the policy's odds between any two decisions are those that their divergences ask for.
    """
    spread = divergences.std(dim=1, keepdim=True).clamp_min(1e-8)
    wanted = (-divergences.detach() / (TEMPERATURE * spread)).log_softmax(dim=1)
    return (wanted.exp() * (wanted - (SCALE * log_probs).log_softmax(dim=1))).sum(dim=1)


def sparsity(scores: Scores, share: Tensor, kept_layers: int, prune_layer: int) -> tuple[Tensor, Tensor]:
    """Returns how far the policy's mean probabilities are from the shares of tokens [B] and of layers, [B] each."""
    layers = torch.sigmoid(scores.layer_scores[:, prune_layer:])
    token_gap = (_mean(torch.sigmoid(scores.token_scores), scores.token_scores) - share).abs()
    layer_gap = (layers.mean(dim=1) - (kept_layers - prune_layer) / layers.shape[1]).abs()
    return token_gap, layer_gap


def _repeated(scores: Scores) -> Scores:
    return Scores(*(part.repeat_interleave(DECISIONS, dim=0) for part in scores))


def _bernoulli(scores: Tensor, picked: Tensor) -> Tensor:
    known = scores.masked_fill(scores.isneginf(), 0)
    return _mean(torch.where(picked, nn.functional.logsigmoid(known), nn.functional.logsigmoid(-known)), scores)


def _mean(values: Tensor, scores: Tensor) -> Tensor:
    """Returns the mean [B] of ``values`` [B, N] where ``scores`` are not those of padding."""
    real = ~scores.isneginf()
    return values.masked_fill(~real, 0).sum(dim=1) / real.sum(dim=1).clamp_min(1)
