"""A model and how it is pruned: what a decoder graph is written for."""

from __future__ import annotations

from typing import NamedTuple

from allrounder.pruning import PruningConfig
from allrounder.vlm.spec import ModelSpec

__all__ = ["PrunedSpec", "pruned_spec"]


class PrunedSpec(NamedTuple):
    """A model's spec, and which layers and tokens of it are in the graph."""

    spec: ModelSpec
    pruning: PruningConfig

    @property
    def dynamic(self) -> bool:
        """Whether layers from K on are chosen per input."""
        return self.pruning.layer_policy == "dynamic"

    @property
    def prunes(self) -> bool:
        """Whether image tokens are dropped."""
        return self.pruning.prunes

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are in the graph."""
        kept = self.pruning.kept_layers
        return tuple(range(self.spec.decoder.layers)) if kept is None else kept

    def optional(self, layer: int) -> bool:
        """Whether a layer is behind an `If`."""
        return self.dynamic and layer >= self.pruning.prune_layer


def pruned_spec(spec: ModelSpec, pruning: PruningConfig) -> PrunedSpec:
    """Returns a spec and a pruning that fit each other.

    Raises:
        InvalidBudget: The model cannot be pruned so; see `PruningConfig.check`.
    """
    pruning.check(layers=spec.decoder.layers)
    return PrunedSpec(spec, pruning)
