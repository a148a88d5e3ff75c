"""The options of training: the record of all that decides what is learned.

What is minimised is in `losses`. Other objectives, PAR's among them, are compared with it by
``benchmarks/router_ablations.py``.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from allrounder.router.model import AttentionKind, Scope

__all__ = ["TrainOptions"]

Positive = Annotated[int, Meta(ge=1)]
PositiveFloat = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


class TrainOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides what is learned; a resumed run must have the same.

    Budgets are names of versions (or ``t<T>-l<L>``); each step draws ``budgets_per_step`` different ones of them, which
    cost a pass of the model each.
    """

    attention: AttentionKind = "causal"
    scope: Scope = "prompt"  # what an image token's scores depend on: the whole prompt, or its image alone
    router_layers: Positive = 1
    start: Literal["fresh", "model"] = "fresh"  # weights of the router's layers: drawn, or the model's first ones
    prune_layer: Annotated[int, Meta(ge=0)] = 2
    budgets: tuple[str, ...] = ("par-base", "par-lite", "par-nano")
    budgets_per_step: Positive = 1
    batch: Positive = 4
    accumulate: Positive = 1  # batches per optimiser step
    focus: Annotated[float, Meta(ge=0, lt=1)] = 0.0  # share of a batch drawn again among what diverged when last seen
    learning_rate: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Meta(ge=0)] = 0.01
    warmup: Share = 0.03  # share of the run
    seed: Annotated[int, Meta(ge=0)] = 0
    window: Annotated[float, Meta(ge=1)] = 2.0  # the best window x T tokens stay and get gates, the others are dropped
    token_gates: Literal["hard", "soft"] = "hard"  # forwards; the gradient is that of the soft gates in both cases
    token_temperature: PositiveFloat = 0.3
    layer_temperature: PositiveFloat = 1.0  # of the layer gates, whose forward pass is always hard
    token_noise: Annotated[float, Meta(ge=0)] = 1.0  # scale of the Gumbel noise on scores under the gates
    layer_noise: Annotated[float, Meta(ge=0)] = 1.0
    final_noise: Share = 0.2  # what is left of both at the end
