"""Decisions for training: hard ones, cut from one ranking, and soft ones that a gradient can pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from allrounder.router.model import Scores
from allrounder.router.selection import keep_indices, kept_layer_mask
from allrounder.versions import Budget

__all__ = ["HardDecisions", "cut", "soft_layers", "soft_top", "straight_through"]

BISECTIONS = 40  # halvings of the threshold's bracket: float32 is exhausted before


class HardDecisions(NamedTuple):
    """``keep`` int64 [B, T], ascending; ``layer_mask`` bool [B, M]."""

    keep: Tensor
    layer_mask: Tensor


def cut(scores: Scores, budget: Budget, prune_layer: int) -> HardDecisions:
    """Returns the decision that a runtime would take at this budget."""
    return HardDecisions(
        keep_indices(scores.token_scores, budget.tokens),
        kept_layer_mask(scores.layer_scores, budget.layers, prune_layer),
    )


def soft_top(scores: Tensor, count: int, temperature: float) -> Tensor:
    """Returns gates in (0, 1) that sum to ``count`` per row: sigmoid((scores - threshold) / temperature).

    The threshold is found by bisection, and its own gradient is that of the sum's constraint: raising one gate lowers
    the others, so scores compete and do not drift.

    Args:
        scores: float32 [B, N].
        count: 1 to N; N gives ones.
        temperature: Towards 0 the gates become the hard cut.
    """
    if count >= scores.shape[1]:
        return torch.ones_like(scores)
    detached = scores.detach()
    low = detached.min(dim=1, keepdim=True).values - 30 * temperature
    high = detached.max(dim=1, keepdim=True).values + 30 * temperature
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        many = torch.sigmoid((detached - middle) / temperature).sum(dim=1, keepdim=True) > count
        low, high = torch.where(many, middle, low), torch.where(many, high, middle)
    threshold = (low + high) / 2
    gates = torch.sigmoid((detached - threshold) / temperature)
    weight = gates * (1 - gates)
    # d threshold = sum(weight x d scores) / sum(weight), from the constraint that the sum stays what it is.
    moved = (weight * (scores - detached)).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp_min(1e-12)
    return torch.sigmoid((scores - threshold - moved) / temperature)


def soft_layers(layer_scores: Tensor, layers: int, prune_layer: int, temperature: float) -> Tensor:
    """Returns gates [B, M] of the layers: ones below K, and soft ones that sum to L-K from there on."""
    free = layers - prune_layer
    kept = torch.ones_like(layer_scores[:, :prune_layer])
    if free == 0:
        return torch.cat([kept, torch.zeros_like(layer_scores[:, prune_layer:])], dim=1)
    return torch.cat([kept, soft_top(layer_scores[:, prune_layer:], free, temperature)], dim=1)


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Returns the value of ``hard`` with the gradient of ``soft``."""
    return hard.to(soft.dtype) + soft - soft.detach()
