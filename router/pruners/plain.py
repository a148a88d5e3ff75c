"""Pruners that read nothing: random, uniform stride, and equal scores. Every method must beat them."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from allrounder.router.pruners.setting import LayerPruner, Setting, TokenPruner, View, scores_of

__all__ = ["flat_layers", "flat_tokens", "random_layers", "random_tokens", "stride_order", "stride_tokens"]


def random_tokens(setting: Setting) -> TokenPruner:
    """Returns a uniformly random ranking of tokens per question, fixed by (seed, identity)."""
    return lambda view: _random("tokens", setting.seed, view, setting.vlm.spec.image_tokens)


def random_layers(setting: Setting) -> LayerPruner:
    """Returns a uniformly random ranking of layers per question, fixed by (seed, identity); not that of the tokens."""
    return lambda view: _random("layers", setting.seed, view, setting.vlm.spec.decoder.layers)


def stride_tokens(setting: Setting) -> TokenPruner:
    """Returns the ranking of `stride_order` for every question: any budget keeps a nearly even comb of tokens."""
    order = torch.tensor(stride_order(setting.vlm.spec.image_tokens))
    scores = scores_of(order[None])
    return lambda view: scores.to(view.image_embeds.device).repeat(len(view.identity), 1)


def flat_tokens(setting: Setting) -> TokenPruner:
    """Returns equal scores: what is kept when nobody scores, the first T tokens (ties go to the lower index)."""
    count = setting.vlm.spec.image_tokens
    return lambda view: torch.zeros(len(view.identity), count, device=view.image_embeds.device)


def flat_layers(setting: Setting) -> LayerPruner:
    """Returns equal scores: what is kept when nobody scores, the first L layers (ties go to the lower index)."""
    count = setting.vlm.spec.decoder.layers
    return lambda view: torch.zeros(len(view.identity), count, device=view.image_embeds.device)


def stride_order(count: int) -> list[int]:
    """Returns the numbers below ``count`` in bit-reversed order (van der Corput, 1935).

    0, 1/2, 1/4, 3/4, ... of the next power of two, what lies beyond ``count`` left out: every prefix is spread nearly
    evenly, so that uniform strides of all budgets are nested.
    """
    bits = max(count - 1, 0).bit_length()
    reversed_bits = (int(format(number, f"0{bits}b")[::-1], 2) if bits else 0 for number in range(1 << bits))
    return [number for number in reversed_bits if number < count]


def _random(what: str, seed: int, view: View, count: int) -> Tensor:
    """Returns scores [B, count] of a permutation per question: without ties, whatever the batch."""
    orders = []
    for identity in view.identity:
        digest = hashlib.sha256(f"{what}:{seed}:{identity}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        orders.append(torch.randperm(count, generator=generator))
    return scores_of(torch.stack(orders)).to(view.image_embeds.device)
