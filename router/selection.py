"""Selection: the one rule by which scores become keep indices and kept layers, in torch.

Best first, ties to the lower index, NaN as -inf, budgets in whole numbers, chosen indices in ascending order. Because
everything is cut from one ranking, smaller budgets are nested in larger ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from allrounder.errors import InputInvalid
from allrounder.versions import Budget, check_decision

__all__ = ["keep_indices", "kept_layer_mask", "ranking"]


def ranking(scores: Tensor) -> Tensor:
    """Returns indices from best to worst, ties to the lower index, NaN as -inf.

    Args:
        scores: [B, N], any float dtype.

    Returns:
        int64 [B, N].
    """
    clean = torch.where(torch.isnan(scores), -torch.inf, scores)
    return clean.argsort(dim=-1, descending=True, stable=True)


def keep_indices(token_scores: Tensor, tokens: int) -> Tensor:
    """Returns the kept image tokens, ascending.

    Args:
        token_scores: [B, N].
        tokens: T, 1 to N.

    Returns:
        int64 [B, T].

    Raises:
        InvalidBudget: T is not within 1 to N.
        InputInvalid: The scores are not [B, N] floats.
    """
    _check(token_scores, "token_scores")
    check_decision(Budget(tokens, 1), tokens=token_scores.shape[1], layers=1, prune_layer=0)
    return ranking(token_scores)[:, :tokens].sort(dim=-1).values


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
