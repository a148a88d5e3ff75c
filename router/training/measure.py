"""Measuring: how close the decisions of some scores stay to the unpruned model, on a set of examples.

Decisions are hard, as a runtime would take them. Random scores are the baseline that must be beaten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from allrounder.router.decisions import Quota, cut
from allrounder.router.model import MetaRouter, Scores
from allrounder.router.training.forced import divergence, forced_rows
from allrounder.router.training.losses import decision_log_probs
from allrounder.router.training.references import Batch, References
from allrounder.vlm.model import LoadedModel

__all__ = ["Closeness", "Scorer", "measure", "random_scorer", "router_scorer"]

Scorer = Callable[[Batch], Scores]


class Closeness(NamedTuple):
    """``divergence``: mean KL(full || pruned), nats per token; ``agreement``: share of equal greedy answers."""

    divergence: float
    agreement: float


@torch.no_grad()
def measure(
    vlm: LoadedModel,
    references: References,
    scorer: Scorer,
    budgets: Sequence[Quota],
    prune_layer: int,
    batch_size: int = 8,
) -> list[Closeness]:
    """Returns the closeness at each budget, over all examples of ``references``.

    An answer counts as equal where every one of its tokens, its stop token included, is the likeliest after the ones
    before it: then the greedy answer is the same, token by token.
    """
    total = len(references.examples)
    sums = torch.zeros(len(budgets), 2, dtype=torch.float64)
    for start in range(0, total, batch_size):
        batch = references.batch(range(start, min(start + batch_size, total)))
        forced = forced_rows(vlm, batch.embeddings, batch.prompt, batch.answers, prune_layer)
        scores = scorer(batch)
        for place, budget in enumerate(budgets):
            pruned = decision_log_probs(
                vlm, forced, cut(scores, batch.prompt.image_of, budget, prune_layer), prune_layer
            )
            same = (pruned.argmax(dim=-1) == batch.answers.ids) | ~forced.counted
            found = divergence(batch.log_probs, pruned, forced.counted)
            sums[place] += torch.stack([found.sum(), same.all(dim=1).sum()]).cpu()
    return [Closeness(*row) for row in (sums / total).tolist()]


def router_scorer(router: MetaRouter) -> Scorer:
    """Returns the scores of a router, without noise."""
    return lambda batch: router(batch.embeddings.float(), batch.prompt)


def random_scorer(vlm: LoadedModel, seed: int = 0) -> Scorer:
    """Returns independent normal scores for every example, drawn anew at every call."""
    generator = torch.Generator().manual_seed(seed)

    def scores(batch: Batch) -> Scores:
        drawn = (
            torch.randn(len(batch.embeddings), count, generator=generator).to(batch.embeddings.device)
            for count in (batch.prompt.image_of.shape[1], vlm.spec.decoder.layers)
        )
        return Scores(*drawn)

    return scores
