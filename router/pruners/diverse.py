"""DivPrune and CDPruner, from their papers: tokens that differ from each other, found before the decoder.

Both papers add one token after the other and never take one back, so the order of adding is a ranking and all budgets
are nested. Cosines and greedy steps are float64: similar tokens differ late in the digits, and an order must not depend
on what else was in the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from allrounder.router.pruners.setting import Setting, TokenPruner, View, scores_by_image
from allrounder.vlm.prompt import real_rows

__all__ = ["RIDGE", "cdpruner", "divprune", "greedy_determinant", "greedy_max_min", "relevance"]

RIDGE = 1e-3  # on the diagonal of CDPruner's similarity; see `cdpruner`


def divprune(setting: Setting) -> TokenPruner:
    """Returns DivPrune (Alvar, Singh, Akbari, Zhang, CVPR 2025): the subset whose closest pair is farthest apart.

    Distance is 1 - cosine of projected image tokens. The first token is the one whose nearest neighbour is farthest,
    each next one the one farthest from its nearest kept token: the paper's greedy solution, the question unseen.

    Deviations: none known; ties, which the paper leaves open, go to the lower index.
    """
    del setting

    @torch.no_grad()
    def scores(view: View) -> Tensor:
        return scores_by_image(
            view, lambda row, places: greedy_max_min(1 - _cosines(view.image_embeds[row, places][None]))[0]
        )

    return scores


def cdpruner(setting: Setting) -> TokenPruner:
    """Returns CDPruner (Zhang et al., NeurIPS 2025): a determinantal point process conditioned on the question.

    Greedy MAP inference (Chen, Zhang, Zhou, NeurIPS 2018) on the kernel r_i L_ij r_j: L is the cosine similarity of
    image tokens, r their relevance to the question, scaled to 0..1 within the image.

    Deviations. (1) The paper takes relevance from the CLIP text tower that belongs to the vision tower; models here
    have none, so `relevance` compares in the decoder's embedding space, which was never trained for it. (2) L is taken
    of projected tokens. (3) `RIDGE` on the diagonal of L: where the decoder is narrower than T, every determinant of
    more than H tokens is 0 and the paper's order ends; with it the order goes on.
    """
    del setting

    @torch.no_grad()
    def scores(view: View) -> Tensor:
        weight = relevance(view).square()

        def order(row: int, places: Tensor) -> Tensor:
            similarity = _cosines(view.image_embeds[row, places][None])
            similarity.diagonal(dim1=1, dim2=2).add_(RIDGE)
            return greedy_determinant(similarity, weight[row, places][None])[0]

        return scores_by_image(view, order)

    return scores


def relevance(view: View) -> Tensor:
    """Returns how close each image token is to the question, float64 [B, N], 0 to 1 within each image.

    The cosine with the mean embedding of the rows behind the last image (the question, and the template's text there),
    scaled by minimum and maximum; 1 everywhere where all are equal.
    """
    rows, prompt = view.embeddings.double(), view.prompt
    last = (
        prompt.image_index.amax(dim=1, keepdim=True) if prompt.image_index.numel() else prompt.lengths[:, None] * 0 - 1
    )
    asked = real_rows(prompt) & (torch.arange(rows.shape[1], device=rows.device) > last)
    question = torch.where(asked[..., None], rows, 0).sum(dim=1, keepdim=True) / asked.sum(dim=1)[:, None, None]
    cosine = (normalize(view.image_embeds.double(), dim=-1) * normalize(question, dim=-1)).sum(dim=-1)
    scaled = torch.ones_like(cosine)
    for image in range(int(prompt.image_of.max()) + 1 if prompt.image_of.numel() else 0):
        own = prompt.image_of == image
        low = cosine.masked_fill(~own, torch.inf).amin(dim=1, keepdim=True)
        high = cosine.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
        scaled = torch.where(own & (high > low), (cosine - low) / (high - low), scaled)
    return scaled


def greedy_max_min(distance: Tensor) -> Tensor:
    """Returns the greedy max-min order.

    Args:
        distance: [B, N, N], symmetric; the diagonal is not read.

    Returns:
        int64 [B, N], ties to the lower index.
    """
    batch, count, _ = distance.shape
    rows = torch.arange(batch, device=distance.device)
    itself = torch.eye(count, dtype=torch.bool, device=distance.device)
    nearest = distance.masked_fill(itself, torch.inf).amin(dim=2)
    order = torch.empty(batch, count, dtype=torch.int64, device=distance.device)
    taken = torch.zeros(batch, count, dtype=torch.bool, device=distance.device)
    for step in range(count):
        choice = nearest.masked_fill(taken, -torch.inf).argmax(dim=1)
        order[:, step] = choice
        taken[rows, choice] = True
        nearest = torch.minimum(nearest, distance[rows, choice]) if step else distance[rows, choice]
    return order


def greedy_determinant(similarity: Tensor, weight: Tensor) -> Tensor:
    """Returns the order in which each next item makes the determinant of the kept items' kernel largest.

    The kernel is ``sqrt(weight_i) similarity_ij sqrt(weight_j)``. Its determinant is the product of the weights times
    the determinant of the similarities, so each step takes the largest weight x remaining variance, and variances
    shrink by one new row of a Cholesky factor per step: O(N^3) for all of them.

    Args:
        similarity: [B, N, N], symmetric, positive definite.
        weight: [B, N], not negative.

    Returns:
        int64 [B, N], ties to the lower index.
    """
    batch, count, _ = similarity.shape
    items = torch.arange(batch, device=similarity.device)
    variance = similarity.diagonal(dim1=1, dim2=2).clone()
    factor = torch.zeros_like(similarity)  # row s: the s-th choice's, against all items
    order = torch.empty(batch, count, dtype=torch.int64, device=similarity.device)
    taken = torch.zeros(batch, count, dtype=torch.bool, device=similarity.device)
    for step in range(count):
        choice = (weight * variance).masked_fill(taken, -1).argmax(dim=1)
        order[:, step] = choice
        taken[items, choice] = True
        known = factor[:, :step]
        explained = (known[items, :, choice][:, None] @ known)[:, 0]
        row = (similarity[items, choice] - explained) / variance[items, choice].sqrt()[:, None]
        factor[:, step] = row
        variance = (variance - row.square()).clamp_min(torch.finfo(variance.dtype).tiny)
    return order


def _cosines(features: Tensor) -> Tensor:
    """Returns cosines float64 [B, N, N], symmetric to the last bit, so that a pair has one distance."""
    unit = normalize(features.double(), dim=-1)
    cosines = unit @ unit.transpose(1, 2)
    return (cosines + cosines.transpose(1, 2)) / 2
