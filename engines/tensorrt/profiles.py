"""Which sizes a TensorRT plan is built for: numbers for a graph's named extents, and the range of the one left open.

A plan takes one image and one question at a time (B = 1). The template's text before the image is fixed, so the prefix
has one length; caches have the capacity of the longest prompt and the longest answer. What stays open is S: the suffix
of a prompt, or the new tokens of a decode call.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from allrounder.errors import BundleCorrupt
from allrounder.golden import decode_golden
from allrounder.manifest import Entry, Frozen, Manifest

__all__ = ["Span", "decode_spans", "extents", "prefix_length", "prompt_spans"]

_USUAL_SUFFIX, _USUAL_BURST = 32, 8  # what a profile is tuned for


class Span(NamedTuple):
    """One optimisation profile's range of S."""

    least: int
    usual: int
    most: int


def extents(entry: Entry, document: Manifest | Frozen, prefix: int) -> dict[str, int]:
    """Returns the extents that are fixed, by the names that the exporter gives them."""
    limits, image_tokens = document.limits, document.model.image_tokens
    longest = limits.text_tokens + limits.new_tokens
    return {"B": 1, "P": prefix, "C": longest + image_tokens, "C_kept": longest + entry.pruning.keep}


def prompt_spans(document: Manifest | Frozen, prefix: int) -> tuple[Span, ...]:
    """Returns the range of a suffix."""
    most = max(1, document.limits.text_tokens - prefix)
    return (Span(1, min(_USUAL_SUFFIX, most), most),)


def decode_spans(document: Manifest | Frozen) -> tuple[Span, ...]:
    """Returns one new token alone, tuned for nothing else, and then any number of them."""
    most = document.limits.new_tokens
    one = Span(1, 1, 1)
    return (one,) if most == 1 else (one, Span(1, min(_USUAL_BURST, most), most))


def prefix_length(golden: Path) -> int:
    """Returns how many ids are before the image, from the file of a bundle's golden prompts.

    Raises:
        BundleCorrupt: They cannot be read, or do not agree.
    """
    try:
        lengths = {len(prompt.prefix_ids) for prompt in decode_golden(golden.read_bytes())}
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise BundleCorrupt("the golden prompts cannot be read", where=golden, got=error) from error
    if len(lengths) != 1:
        raise BundleCorrupt("the golden prompts have no one prefix", where=golden, got=sorted(lengths))
    return lengths.pop()
