"""What is frozen: one version's flow on one host.

What it is: `Plan`, the budgets and layers that a prefill and decode graph are written for.
What it knows: which layers stand in the graphs, and which of them behind an `If`.
What it does not know: ONNX, files.
"""

from __future__ import annotations

from typing import NamedTuple

from allrounder.errors import InvalidBudget
from allrounder.hosts.spec import HostSpec
from allrounder.versions import Budget, check_flow

__all__ = ["Plan", "make_plan"]


class Plan(NamedTuple):
    """The flow that graphs are frozen for."""

    spec: HostSpec
    budget: Budget
    gather_layer: int  # K
    kept: tuple[int, ...] | None  # the layer plan, ascending; None where routed

    @property
    def routed(self) -> bool:
        """Whether layers from K on are chosen per input."""
        return self.kept is None

    @property
    def prunes(self) -> bool:
        """Whether visual tokens are dropped (T < N)."""
        return self.budget.tokens < self.spec.visual_tokens

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that stand in the graphs."""
        return tuple(range(self.spec.decoder.layers)) if self.kept is None else self.kept

    def optional(self, layer: int) -> bool:
        """Whether a layer stands behind an `If`."""
        return self.routed and layer >= self.gather_layer


def make_plan(spec: HostSpec, budget: Budget, gather_layer: int, kept: tuple[int, ...] | None) -> Plan:
    """Returns a checked plan; ``kept`` is None where layers are routed.

    Raises:
        InvalidBudget: The flow does not exist on this host, or the layer plan does not fit the budget.
    """
    depth = spec.decoder.layers
    check_flow(budget, tokens=spec.visual_tokens, layers=depth, gather_layer=gather_layer)
    if kept is not None:
        fits = len(kept) == budget.layers and list(kept) == sorted(set(kept)) and set(kept) <= set(range(depth))
        if not fits or set(range(gather_layer)) - set(kept):
            raise InvalidBudget(
                "a layer plan that does not fit the budget",
                got=list(kept),
                wanted=f"{budget.layers} of layers 0 to {depth - 1}, ascending, all below {gather_layer} among them",
            )
    return Plan(spec, budget, gather_layer, kept)
