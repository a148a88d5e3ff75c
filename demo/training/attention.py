"""Attention for training, as attention functions for stock Hugging Face layers.

A packed row is a causal prefix followed by questions that see the prefix and themselves; a tower sees all. Both compute
what dense masked attention computes, and only leave out blocks that the mask would throw away. On a CPU they are
written as plain products, which train nearly twice as fast there as the fused kernel (measured, AVX-512).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

PACKED_ATTENTION = "allrounder_packed"
TOWER_ATTENTION = "allrounder_tower"
CHUNKS = 4


def packed_attention(
    module: torch.nn.Module,  # noqa: ARG001 - the interface's signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attention of ``query`` [B, heads, S, D] to ``key``, ``value`` [B, kv_heads, S, D].

    ``attention_mask`` is bool [B, 1, text, prefix + text]: what the last ``text`` rows see; the prefix is causal.
    Without a mask the whole row is causal. Returns [B, S, heads, D].
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    prefix = query.shape[2] - (0 if attention_mask is None else attention_mask.shape[2])
    bounds = [round(prefix * part / CHUNKS) for part in range(CHUNKS + 1)]
    parts = []
    for start, end in pairwise(bounds):
        seen = torch.ones(end - start, end, dtype=torch.bool, device=query.device).tril(start)
        parts.append(_attend(query[:, :, start:end], key[:, :, :end], value[:, :, :end], seen, scaling))
    if attention_mask is not None:
        parts.append(_attend(query[:, :, prefix:], key, value, attention_mask, scaling))
    return torch.cat(parts, 2).transpose(1, 2), None


def tower_attention(
    module: torch.nn.Module,  # noqa: ARG001 - the interface's signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attention of everything to everything, all [B, heads, S, D]; returns [B, S, heads, D]."""
    assert attention_mask is None
    return _attend(query, key, value, None, scaling).transpose(1, 2), None


def use_training_attention() -> None:
    """Make both functions known to Hugging Face; asking twice is harmless."""
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
    AttentionInterface.register(TOWER_ATTENTION, tower_attention)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Plain attention [B, heads, rows, D]; ``seen`` bool broadcasts to [B, heads, rows, keys]."""
    if query.device.type != "cpu":
        return scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale)
    scores = (query * scale) @ key.transpose(-1, -2)
    if seen is not None:
        scores = scores + torch.zeros_like(seen, dtype=scores.dtype).masked_fill_(~seen, float("-inf"))
    with torch.autocast("cpu", enabled=False):
        weights = scores.softmax(-1)
    return weights @ value
