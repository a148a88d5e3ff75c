"""Selection: from scores to keep indices and kept layers.

What it is: the one rule by which scores become a decision, in torch.
What it knows: best first, ties to the lower index, NaN as -inf, each image's quota from its own tokens alone, chosen
indices in ascending order. Because everything is cut from one ranking, smaller budgets are nested in larger ones.
What it does not know: where scores come from, or what is done with the decision.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from allrounder.errors import InputInvalid
from allrounder.versions import Budget, Keep, check_decision, kept_tokens

__all__ = ["best_indices", "keep_counts", "keep_indices", "kept_layer_mask", "ranking"]


def ranking(scores: Tensor) -> Tensor:
    """Returns indices from best to worst, ties to the lower index, NaN as -inf.

    Args:
        scores: [B, N], any float dtype.

    Returns:
        int64 [B, N].
    """
    clean = torch.where(torch.isnan(scores), -torch.inf, scores)
    return clean.argsort(dim=-1, descending=True, stable=True)


def keep_indices(token_scores: Tensor, image_of: Tensor, keep: Keep) -> Tensor:
    """Returns the kept image tokens: of each image its T_i best ones.

    Args:
        token_scores: [B, N]; what it holds at padding is not read.
        image_of: int64 [B, N]: whose tokens they are, 0 to I-1, padded with -1 at the end.
        keep: Share or count of each image's tokens.

    Returns:
        int64 [B, T], ascending indices into N, padded with -1 at the end.

    Raises:
        InputInvalid: The scores are not [B, N] floats, or not as many as there are image tokens.
    """
    return best_indices(token_scores, image_of, keep_counts(image_of, keep))


def keep_counts(image_of: Tensor, keep: Keep) -> Tensor:
    """Returns T_i of each image, int64 [B, I]; 0 where a row has fewer images."""
    counts = _tokens_by_image(image_of).tolist()
    kept = [[kept_tokens(keep, count) for count in row] for row in counts]
    return torch.tensor(kept, dtype=torch.int64, device=image_of.device).reshape(len(image_of), -1)


def best_indices(token_scores: Tensor, image_of: Tensor, counts: Tensor) -> Tensor:
    """Returns what `keep_indices` returns, where ``counts`` int64 [B, I] are to be kept of each image."""
    _check(token_scores, "token_scores")
    if token_scores.shape != image_of.shape:
        wanted = list(image_of.shape)
        raise InputInvalid(
            "one score per image token", where="token_scores", got=list(token_scores.shape), wanted=wanted
        )
    images, tokens = counts.shape[1], image_of.shape[1]
    owner = image_of.where(image_of >= 0, images)  # padding is an image of its own, of which nothing is kept
    order = ranking(token_scores)
    order = order.gather(1, owner.gather(1, order).argsort(dim=1, stable=True))  # image by image, best first in each
    owner = owner.gather(1, order)
    first = pad(_tokens_by_image(image_of).cumsum(dim=1), (1, 0))
    place = torch.arange(tokens, device=owner.device) - first.gather(1, owner)
    kept = torch.zeros_like(owner, dtype=torch.bool).scatter(1, order, place < pad(counts, (0, 1)).gather(1, owner))
    total = kept.sum(dim=1, keepdim=True)
    indices = (~kept).int().argsort(dim=1, stable=True)[:, : int(total.max())]
    return indices.where(torch.arange(indices.shape[1], device=owner.device) < total, -1)


def _tokens_by_image(image_of: Tensor) -> Tensor:
    """Returns N_i of each image, int64 [B, I]."""
    images = int(image_of.max()) + 1 if image_of.numel() else 0
    owner = image_of.where(image_of >= 0, images)
    return owner.new_zeros(len(owner), images + 1).scatter_add(1, owner, torch.ones_like(owner))[:, :images]


def kept_layer_mask(layer_scores: Tensor, layers: int, prune_layer: int) -> Tensor:
    """Returns the kept layers as a mask: layers 0 to K-1, and the L-K best of the others.

    Args:
        layer_scores: [B, M].
        layers: L, max(K, 1) to M.
        prune_layer: K, 0 to M-1.

    Returns:
        bool [B, M], True where the layer is kept.

    Raises:
        InvalidBudget: L or K does not fit M.
        InputInvalid: The scores are not [B, M] floats.
    """
    _check(layer_scores, "layer_scores")
    check_decision(Budget(1, layers), tokens=1, layers=layer_scores.shape[1], prune_layer=prune_layer)
    chosen = ranking(layer_scores[:, prune_layer:])[:, : layers - prune_layer] + prune_layer
    mask = torch.zeros_like(layer_scores, dtype=torch.bool)
    mask[:, :prune_layer] = True
    return mask.scatter_(1, chosen, value=True)


def _check(scores: Tensor, where: str) -> None:
    if scores.ndim != 2 or not scores.is_floating_point():
        raise InputInvalid(
            "scores are floats, one row per prompt",
            where=where,
            got=f"{scores.dtype} {list(scores.shape)}",
            wanted="float [B, N]",
        )
