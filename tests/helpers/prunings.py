"""Prunings as tests write them: a keep rule, L, K, and a list of layers or none."""

from __future__ import annotations

from allrounder.pruning import PruningConfig, custom_version


def pruning(budget, prune_layer=2, kept_layers=None, version=None) -> PruningConfig:
    """Returns a keep rule and L at K: static where ``kept_layers`` are listed, else dynamic; nothing is checked."""
    keep, layers = budget
    return PruningConfig(
        version=version or custom_version(keep, layers),
        keep=str(keep),
        layers=layers,
        prune_layer=prune_layer,
        layer_policy="dynamic" if kept_layers is None else "static",
        kept_layers=kept_layers,
    )
