"""Prunings as tests write them: a budget, K, and a list of layers or none."""

from __future__ import annotations

from allrounder.pruning import PruningConfig
from allrounder.versions import Budget


def pruning(budget, prune_layer=2, kept_layers=None, version=None) -> PruningConfig:
    """Returns T and L at K: static where ``kept_layers`` are listed, dynamic where they are not; nothing is checked."""
    keep, layers = budget
    return PruningConfig(
        version=version or Budget(keep, layers).name,
        keep=keep,
        layers=layers,
        prune_layer=prune_layer,
        layer_policy="dynamic" if kept_layers is None else "static",
        kept_layers=kept_layers,
    )
