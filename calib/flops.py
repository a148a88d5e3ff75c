"""FLOPs of a decoder's prefill, counted in two ways that are never mixed.

Counted are the matrix products of decoder layers, attention over the whole square of rows, as kernels without a causal
shortcut compute it; one multiplication with its addition is two FLOPs. Neither mode counts tower, projector, lm_head,
norms, rotary embedding and softmax.

Paper mode is for the paper's table alone: it understates what pruning saves, because it counts two of the three MLP
matrices and about 460 text tokens where a real prompt has 60 to 100. It is our reading: the paper names no formula, and
this one fits its five LLaVA-1.5-7B rows and its ShortGPT row to 1 %.
"""

from __future__ import annotations

from typing import NamedTuple

from allrounder.errors import InputInvalid
from allrounder.versions import Budget, check_decision

__all__ = ["DecoderSize", "paper_flops", "true_flops"]

# Paper mode, fitted to table 1 of PAR: tokens leave before layer 3, 463 rows are text, the MLP has two matrices.
_PAPER_GATHER, _PAPER_TEXT, _PAPER_MATRICES = 3, 463, 2
_TRUE_MATRICES = 3  # gate, up, down


class DecoderSize(NamedTuple):
    """What a decoder's FLOPs depend on; ``heads x head_dim`` need not be ``hidden``."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int


def paper_flops(size: DecoderSize, budget: Budget, *, image_tokens: int) -> int:
    """Returns the FLOPs of a prefill as the paper's table counts them; never to be compared with `true_flops`.

    Multi-head formula ``2 (4 n d^2 + 2 n d m + 2 n^2 d)`` per layer, first three layers on all tokens, 463 other rows,
    no router (table 1 of PAR, ICCV 2025). It takes ``hidden``, ``intermediate`` and ``layers`` only.

    Raises:
        InvalidBudget: The budget does not fit the model.
    """
    check_decision(budget, tokens=image_tokens, layers=size.layers, prune_layer=0)
    multi_head = size._replace(heads=1, kv_heads=1, head_dim=size.hidden)
    below = min(_PAPER_GATHER, budget.layers)
    whole = _layer(multi_head, image_tokens + _PAPER_TEXT, _PAPER_MATRICES)
    pruned = _layer(multi_head, budget.tokens + _PAPER_TEXT, _PAPER_MATRICES)
    return below * whole + (budget.layers - below) * pruned


def true_flops(
    size: DecoderSize, budget: Budget, *, image_tokens: int, text_tokens: int, prune_layer: int, router_layers: int
) -> int:
    """Returns the FLOPs of a prefill as our graphs do it; never to be compared with `paper_flops`.

    Three MLP matrices, grouped-query projections, the real K and text length, and the router where there is one: its
    layers on all rows and M layer tokens, and its head. A causal and a bidirectional router count the same.

    Args:
        size: Of the decoder; the router's layers have the same shape.
        budget: T and L; N and M with ``router_layers=0`` is `full`.
        image_tokens: N.
        text_tokens: Rows of the prompt that are no image tokens, the template's included.
        prune_layer: K; layers below it run on all rows.
        router_layers: Layers of the router; 0: no router is run (`full`, or scores that come from elsewhere).

    Raises:
        InvalidBudget: Budget or K do not fit the model.
        InputInvalid: A negative count.
    """
    check_decision(budget, tokens=image_tokens, layers=size.layers, prune_layer=prune_layer)
    for name, count in (("text_tokens", text_tokens), ("router_layers", router_layers)):
        if count < 0:
            raise InputInvalid("a negative count", where=name, got=count, wanted="0 or more")
    whole = _layer(size, image_tokens + text_tokens, _TRUE_MATRICES)
    pruned = _layer(size, budget.tokens + text_tokens, _TRUE_MATRICES)
    flops = prune_layer * whole + (budget.layers - prune_layer) * pruned
    if router_layers:
        flops += router_layers * _layer(size, image_tokens + text_tokens + size.layers, _TRUE_MATRICES)
        flops += 2 * size.hidden * (image_tokens + size.layers)
    return flops


def _layer(size: DecoderSize, rows: int, matrices: int) -> int:
    """Returns the FLOPs of rows through a layer's weights (q and o, k and v, the MLP), and of every pair of them."""
    attention = 2 * size.hidden * (size.heads + size.kv_heads) * size.head_dim
    products = 2 * (attention + matrices * size.hidden * size.intermediate)
    pairs = 4 * rows * rows * size.heads * size.head_dim  # one product for the score, one for the value
    return rows * products + pairs
