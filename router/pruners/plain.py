"""Pruners that read nothing: random, uniform stride, and equal scores. Every method must beat them."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from allrounder.router.pruners.setting import LayerPruner, Setting, TokenPruner, View, scores_by_image

__all__ = ["flat_layers", "flat_tokens", "random_layers", "random_tokens", "stride_order", "stride_tokens"]


def random_tokens(setting: Setting) -> TokenPruner:
    """Returns a uniformly random ranking of each image's tokens per question, fixed by (seed, identity)."""

    def scores(view: View) -> Tensor:
        chances = [_chance("tokens", setting.seed, identity) for identity in view.identity]
        device = view.image_embeds.device
        return scores_by_image(view, lambda row, places: torch.randperm(len(places), generator=chances[row]).to(device))

    return scores


def random_layers(setting: Setting) -> LayerPruner:
    """Returns a uniformly random ranking of layers per question, fixed by (seed, identity); not that of the tokens."""
    count = setting.vlm.spec.decoder.layers

    def scores(view: View) -> Tensor:
        chances = (_chance("layers", setting.seed, identity) for identity in view.identity)
        orders = [torch.randperm(count, generator=chance) for chance in chances]
        return (count - torch.stack(orders).argsort(dim=1)).float().to(view.image_embeds.device)

    return scores


def stride_tokens(setting: Setting) -> TokenPruner:
    """Returns the ranking of `stride_order` for each image: any budget keeps a nearly even comb of its tokens."""
    del setting
    return lambda view: scores_by_image(
        view, lambda _, places: torch.tensor(stride_order(len(places)), device=places.device)
    )


def flat_tokens(setting: Setting) -> TokenPruner:
    """Returns equal scores: what is kept when nobody scores, each image's first T_i (ties go to the lower index)."""
    del setting
    return lambda view: torch.zeros_like(view.prompt.image_of, dtype=torch.float32).masked_fill(
        view.prompt.image_of < 0, -torch.inf
    )


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


def _chance(what: str, seed: int, identity: str) -> torch.Generator:
    """Returns a question's own source of chance, whatever else is in the batch."""
    digest = hashlib.sha256(f"{what}:{seed}:{identity}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
