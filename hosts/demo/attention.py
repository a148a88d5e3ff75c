"""Attention for training, as attention functions that stock Hugging Face layers can be told to use.

Knows: a packed row is a causal prefix followed by questions that see the prefix and themselves; a tower sees all.
Does not know: models, pictures or questions.

It computes what dense masked attention computes; it only leaves out blocks that the mask would throw away.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

PACKED_ATTENTION = "allrounder_packed"
TOWER_ATTENTION = "allrounder_tower"


def packed_attention(
    module: torch.nn.Module,  # noqa: ARG001 - the interface's signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """Attention of ``query`` [B, heads, S, D] to ``key``, ``value`` [B, kv_heads, S, D].

    ``attention_mask`` is bool [B, 1, text, prefix + text]: what the last ``text`` rows see; the prefix is causal.
    Without a mask the whole row is causal. Returns [B, S, heads, D].
    """
    scale = options.get("scaling")
    assert scale is None or isinstance(scale, float)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    text = 0 if attention_mask is None else attention_mask.shape[2]
    prefix = query.shape[2] - text
    kept = query.dtype
    query, key, value = _precise(query), _precise(key), _precise(value)
    with torch.autocast(query.device.type, enabled=False):
        first = scaled_dot_product_attention(
            query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix], is_causal=True, scale=scale
        )
        if attention_mask is None:
            return first.transpose(1, 2).to(kept), None
        rest = query[:, :, prefix:]
        second = scaled_dot_product_attention(rest, key, value, attn_mask=attention_mask, scale=scale)
    return torch.cat([first, second], 2).transpose(1, 2).to(kept), None


def tower_attention(
    module: torch.nn.Module,  # noqa: ARG001 - the interface's signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """Attention of everything to everything, all [B, heads, S, D]; returns [B, S, heads, D]."""
    assert attention_mask is None
    scale, kept = options.get("scaling"), query.dtype
    assert scale is None or isinstance(scale, float)
    with torch.autocast(query.device.type, enabled=False):
        mixed = scaled_dot_product_attention(_precise(query), _precise(key), _precise(value), scale=scale)
    return mixed.transpose(1, 2).to(kept), None


def _precise(states: torch.Tensor) -> torch.Tensor:
    """In float32 on a CPU: there that kernel's backward is twice as fast as the bfloat16 one (measured on AVX-512)."""
    return states.float() if states.device.type == "cpu" else states


def use_training_attention() -> None:
    """Make both functions known to Hugging Face; asking twice is harmless."""
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
    AttentionInterface.register(TOWER_ATTENTION, tower_attention)
