"""Keep rules as people read them."""

from __future__ import annotations

from allrounder.pruning import PruningConfig

__all__ = ["keep_words"]


def keep_words(pruning: PruningConfig) -> str:
    """Returns how many image tokens an engine keeps, in words."""
    if not pruning.prunes:
        return "all image tokens"
    if isinstance(pruning.keep_rule, int):
        return f"{pruning.keep} tokens of each image"
    return f"{pruning.keep} of each image's tokens"
