"""What is frozen: one version's decision on one model.

What it is: `Plan`, the model and the pruning that a prefill and decode graph are written for.
What it knows: which layers stand in the graphs, and which of them behind an `If`.
What it does not know: ONNX, files.
"""

from __future__ import annotations

from typing import NamedTuple

from allrounder.pruning import PruningConfig
from allrounder.vlm.spec import ModelSpec

__all__ = ["Plan", "make_plan"]


class Plan(NamedTuple):
    """The decision that graphs are frozen for."""

    spec: ModelSpec
    pruning: PruningConfig

    @property
    def dynamic(self) -> bool:
        """Whether layers from K on are chosen per input."""
        return self.pruning.layer_policy == "dynamic"

    @property
    def prunes(self) -> bool:
        """Whether image tokens are dropped (T < N)."""
        return self.pruning.keep < self.spec.image_tokens

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that stand in the graphs."""
        kept = self.pruning.kept_layers
        return tuple(range(self.spec.decoder.layers)) if kept is None else kept

    def optional(self, layer: int) -> bool:
        """Whether a layer stands behind an `If`."""
        return self.dynamic and layer >= self.pruning.prune_layer


def make_plan(spec: ModelSpec, pruning: PruningConfig) -> Plan:
    """Returns a checked plan.

    Raises:
        InvalidBudget: The model cannot be pruned so; see `PruningConfig.check`.
    """
    pruning.check(tokens=spec.image_tokens, layers=spec.decoder.layers)
    return Plan(spec, pruning)
