"""Which sizes a TensorRT plan is built for: numbers for a graph's named extents, and ranges of those left open.

Caches have the capacity of the longest prompt and the longest answer, from K on with as many image tokens as the
version keeps. A decoder plan has three optimisation profiles: one new token alone, any number of them, and a prompt. A
plan holds one sequence (B = 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from allrounder.manifest import Entry, Frozen, Manifest

__all__ = ["Profile", "Span", "extents", "profiles"]

_USUAL_TEXT, _USUAL_BURST = 32, 8  # what a profile is tuned for


class Span(NamedTuple):
    """One extent's range in one optimisation profile."""

    least: int
    usual: int
    most: int


Profile = Mapping[str, Span]  # by the names that the exporter gives to extents


def extents(entry: Entry, document: Manifest | Frozen) -> dict[str, int]:
    """Returns the extents of a decoder that are fixed, by the names that the exporter gives them."""
    limits = document.limits
    longest = limits.text_tokens + limits.new_tokens
    return {"B": 1, "C": longest + limits.image_tokens, "C_kept": longest + _kept(entry, document, limits.images)}


def profiles(kind: str, entry: Entry, document: Manifest | Frozen) -> tuple[Profile, ...]:
    """Returns the profiles of a graph of that kind: ``vision``, ``router`` or ``decoder``; narrow ones first."""
    limits, model = document.limits, document.model
    images = Span(1, 1, limits.images)
    if kind == "vision":
        most = limits.images * model.images.most_tiles
        return ({"tiles": Span(1, 1, most), "N": Span(1, model.images.tokens, limits.image_tokens)},)
    text, tokens = limits.text_tokens, limits.image_tokens
    usual = min(_USUAL_TEXT, text)
    prompt = {
        "S": Span(1, min(usual + model.images.tokens, text + tokens), text + tokens),
        "N": Span(0, min(model.images.tokens, tokens), tokens),
    }
    if kind == "router":  # which text alone does not ask
        return ({**prompt, "S": prompt["S"]._replace(least=2), "N": prompt["N"]._replace(least=1)},)
    most = limits.new_tokens
    none, one = Span(0, 0, 0), Span(1, 1, 1)
    kept = {
        "I": images._replace(least=0),
        "T": Span(0, entry.pruning.budget(model.images.tokens).tokens, _kept(entry, document, limits.images)),
    }
    new = {"N": none, "I": none, "T": none}
    single = {"S": one, "Q": one, **new}
    burst = Span(1, min(_USUAL_BURST, most), most)
    several = () if most == 1 else ({"S": burst, "Q": burst, **new},)
    return (single, *several, {**prompt, **kept, "Q": one})


def _kept(entry: Entry, document: Manifest | Frozen, images: int) -> int:
    """Returns T of so many images."""
    return images * entry.pruning.budget(document.model.images.most_tokens).tokens
