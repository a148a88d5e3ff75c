"""Gated attention: the stock decoder layer, each of its keys weighed by a gate.

Rows are in causal order, padding last, so that causality needs no mask. A gate g, which multiplies a key's weight
before the softmax is normalised, is one more dimension: query 1, key log(g) / scaling. A mask that carries a gradient
would do the same, but only the slowest kernels take one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

__all__ = ["attending", "run_layer"]

NAME = "allrounder_gated"
GATE_FLOOR = 1e-6  # a softer gate is as good as closed, and its logarithm still finite
ALIGNED = 8  # fast kernels want head dimensions that are a multiple of it


@contextmanager
def attending(decoder: Any, name: str) -> Iterator[None]:
    """Lets the layers of a stock decoder attend by the implementation ``name``; puts back what was there."""
    usual = decoder.config._attn_implementation  # noqa: SLF001 - there is a public setter but no getter
    decoder.config._attn_implementation = name  # noqa: SLF001 - the public one walks over all modules each time
    try:
        yield
    finally:
        decoder.config._attn_implementation = usual  # noqa: SLF001


def run_layer(
    decoder: Any,
    index: int,
    hidden: Tensor,
    rotation: tuple[Tensor, Tensor],
    gates: Tensor | None = None,
    *,
    frugal: bool = False,
) -> Tensor:
    """Runs one layer, causally.

    Args:
        decoder: A stock decoder.
        index: Of its layer.
        hidden: [B, R, H], in the order of their positions, padding last.
        rotation: Cosine and sine, [B, R, D] each.
        gates: float [B, R], the weight of each row's keys; None is all ones.
        frugal: The gradient computes the layer again, and nothing inside it is remembered.
    """
    if frugal and torch.is_grad_enabled():
        return checkpoint(_run, decoder, index, hidden, rotation, gates, use_reentrant=False)
    return _run(decoder, index, hidden, rotation, gates)


def _run(decoder: Any, index: int, hidden: Tensor, rotation: tuple[Tensor, Tensor], gates: Tensor | None) -> Tensor:
    with attending(decoder, NAME):
        return decoder.layers[index](hidden, attention_mask=None, position_embeddings=rotation, allrounder_gates=gates)


def _attention(  # noqa: PLR0913 - the library's signature
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    allrounder_gates: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Returns [B, R, heads, D] of queries, keys and values [B, heads, R, D]."""
    del module, attention_mask
    groups, width = query.shape[1] // key.shape[1], query.shape[-1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if allrounder_gates is not None:
        weight = (allrounder_gates.float().clamp_min(GATE_FLOOR).log() / scaling).to(key.dtype)
        query = torch.cat([query, _columns(query, torch.ones_like(weight))], dim=-1)
        key = torch.cat([key, _columns(key, weight)], dim=-1)
        value = nn.functional.pad(value, (0, query.shape[-1] - width))
    found = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
    return found[..., :width].transpose(1, 2).contiguous(), None


def _columns(like: Tensor, first: Tensor) -> Tensor:
    """Returns [B, heads, R, extra] to be put behind ``like``: the column ``first`` [B, R], and zeros up to ALIGNED."""
    extra = ALIGNED - like.shape[-1] % ALIGNED
    columns = nn.functional.pad(first[:, None, :, None].to(like.dtype), (0, extra - 1))
    return columns.expand(-1, like.shape[1], -1, -1)


AttentionInterface.register(NAME, _attention)
