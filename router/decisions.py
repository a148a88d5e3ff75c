"""Decisions for training: hard ones, and soft ones that a gradient can pass.

What it is: how scores become gates while the router learns.
What it knows: one ranking per image, cut at a quota; `soft_top` is its differentiable relaxation.
What it does not know: the model, and what a decision is worth.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from allrounder.router.model import Scores
from allrounder.router.selection import keep_indices, kept_layer_mask
from allrounder.versions import Keep, keep_of, resolve

__all__ = ["HardDecisions", "Quota", "cut", "quota", "soft_layers", "soft_top", "straight_through"]

BISECTIONS = 40  # halvings of the threshold's bracket: float32 is exhausted before


class Quota(NamedTuple):
    """How much is kept of any prompt: ``keep`` of each image's tokens, and L ``layers``."""

    keep: Keep
    layers: int


class HardDecisions(NamedTuple):
    """``keep`` int64 [B, T], ascending, padded with -1; ``layer_mask`` bool [B, M]."""

    keep: Tensor
    layer_mask: Tensor


def quota(version: str, layers: int) -> Quota:
    """Returns what a version keeps of a model of M ``layers``.

    Raises:
        UnknownVersion: There is no such version.
        InvalidBudget: The model has fewer layers.
    """
    return Quota(keep_of(version), resolve(version, tokens=1, layers=layers).layers)


def cut(scores: Scores, image_of: Tensor, kept: Quota, prune_layer: int) -> HardDecisions:
    """Returns the decision that a runtime would take.

    Args:
        scores: Of B prompts.
        image_of: int64 [B, N], whose the image tokens are; padded with -1.
        kept: How much.
        prune_layer: K.
    """
    return HardDecisions(
        keep_indices(scores.token_scores, image_of, kept.keep),
        kept_layer_mask(scores.layer_scores, kept.layers, prune_layer),
    )


def soft_top(scores: Tensor, image_of: Tensor, counts: Tensor, temperature: float) -> Tensor:
    """Returns gates in (0, 1) that sum to ``counts`` per image: sigmoid((scores - threshold) / temperature).

    The threshold is found by bisection, and its own gradient is that of the sum's constraint: raising one gate lowers
    the others of its image, so scores compete and do not drift.

    Args:
        scores: float32 [B, N]; what it holds at padding is not read.
        image_of: int64 [B, N], 0 to I-1, padded with -1. Padding gets gates of 0.
        counts: int64 [B, I], 1 to N_i; N_i gives ones.
        temperature: Towards 0 the gates become the hard cut.
    """
    batch, images = counts.shape
    owner = image_of.where(image_of >= 0, images)
    scores = scores.masked_fill(image_of < 0, 0)
    detached, none = scores.detach(), scores.new_zeros(batch, images + 1)

    def summed(values: Tensor) -> Tensor:
        return none.scatter_add(1, owner, values)

    wanted = pad(counts, (0, 1))
    low = none.scatter_reduce(1, owner, detached, "amin", include_self=False) - 30 * temperature
    high = none.scatter_reduce(1, owner, detached, "amax", include_self=False) + 30 * temperature
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        many = summed(torch.sigmoid((detached - middle.gather(1, owner)) / temperature)) > wanted
        low, high = torch.where(many, middle, low), torch.where(many, high, middle)
    threshold = (low + high) / 2
    gates = torch.sigmoid((detached - threshold.gather(1, owner)) / temperature)
    weight = gates * (1 - gates)
    # d threshold = sum(weight x d scores) / sum(weight), from the constraint that the sum stays what it is.
    moved = summed(weight * (scores - detached)) / summed(weight).clamp_min(1e-12)
    found = torch.sigmoid((scores - (threshold + moved).gather(1, owner)) / temperature)
    everything = (summed(torch.ones_like(scores)) <= wanted).gather(1, owner)
    return torch.where(everything, 1.0, found).masked_fill(image_of < 0, 0)


def soft_layers(layer_scores: Tensor, layers: int, prune_layer: int, temperature: float) -> Tensor:
    """Returns gates [B, M] of the layers: ones below K, and soft ones that sum to L-K from there on."""
    kept, free = torch.ones_like(layer_scores[:, :prune_layer]), layer_scores[:, prune_layer:]
    if layers == prune_layer:
        return torch.cat([kept, torch.zeros_like(free)], dim=1)
    counts = torch.full((len(free), 1), layers - prune_layer, device=free.device)
    return torch.cat([kept, soft_top(free, torch.zeros_like(free, dtype=torch.int64), counts, temperature)], dim=1)


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Returns the value of ``hard`` with the gradient of ``soft``."""
    return hard.to(soft.dtype) + soft - soft.detach()
