"""The pruning of one engine: five facts in one record, from the command line to the manifest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from allrounder.errors import InvalidBudget
from allrounder.records import Count, Positive, Record
from allrounder.versions import FULL, Budget, check_decision, resolve

__all__ = [
    "LAYER_POLICIES",
    "Keep",
    "LayerPolicy",
    "PruningConfig",
    "PruningKey",
    "custom_version",
    "parse_keep",
    "pruning_config",
    "pruning_configs",
]

LayerPolicy = Literal["static", "dynamic"]  # one list of layers for all inputs, or layers chosen per input
LAYER_POLICIES: tuple[LayerPolicy, ...] = ("static", "dynamic")
Keep = Fraction | int  # a share of the image tokens, or a count of them
PruningKey = tuple[str, int, LayerPolicy]


class PruningConfig(Record, frozen=True, kw_only=True):
    """What one engine keeps of its model."""

    version: str  # of the table, or t<T>-l<L>
    keep: Positive  # T image tokens
    layers: Positive  # L decoder layers
    prune_layer: Count  # K: from this layer on only kept image tokens are there
    layer_policy: LayerPolicy
    kept_layers: tuple[Count, ...] | None  # where static, ascending; None there: the layers are not ranked yet

    @property
    def key(self) -> PruningKey:
        """What makes it the same as another of the same model: a version is built once per K and policy."""
        return (self.version, self.prune_layer, self.layer_policy)

    @property
    def budget(self) -> Budget:
        """T and L."""
        return Budget(self.keep, self.layers)

    @property
    def unranked(self) -> bool:
        """Whether its list of layers is still to be made."""
        return self.layer_policy == "static" and self.kept_layers is None

    def routes(self, tokens: int) -> bool:
        """Whether it needs scores, on a model of N ``tokens``."""
        return self.keep < tokens or self.layer_policy == "dynamic"

    def check(self, *, tokens: int, layers: int) -> None:
        """Checks that a model of N ``tokens`` and M ``layers`` can be pruned so.

        Raises:
            InvalidBudget: It cannot, or the kept layers contradict the rest.
        """
        check_decision(self.budget, tokens=tokens, layers=layers, prune_layer=self.prune_layer)
        if self.version == FULL and (self.budget != (tokens, layers) or self.layer_policy != "static"):
            got, wanted = f"{self.keep}/{self.layers}, {self.layer_policy}", f"{tokens}/{layers}, static"
            raise InvalidBudget(f"{FULL} keeps everything and is static", got=got, wanted=wanted)
        kept = self.kept_layers
        if self.layer_policy == "dynamic":
            if kept is not None:
                raise InvalidBudget("dynamic layers are chosen per input and are not listed", got=kept[:100])
            return
        if kept is None:
            raise InvalidBudget("static layers are not listed", wanted=f"{self.layers} layers")
        ascending = len(kept) == self.layers and all(low < high for low, high in pairwise(kept))
        if not ascending or kept[-1] >= layers or kept[: self.prune_layer] != tuple(range(self.prune_layer)):
            raise InvalidBudget(
                "the kept layers contradict the budget",
                got=kept[:100],
                wanted=f"{self.layers} of layers 0 to {layers - 1}, ascending, all below {self.prune_layer} among them",
            )


def pruning_config(
    version: str, *, tokens: int, layers: int, prune_layer: int, layer_policy: LayerPolicy
) -> PruningConfig:
    """Returns how ``version`` prunes a model of N ``tokens`` and M ``layers``; static layers are still to be ranked.

    A version that keeps every layer has nothing to choose: it is static, its layers are all. `full` drops no token
    at any layer: its K is 0.

    Raises:
        UnknownVersion: There is no such version.
        InvalidBudget: The model is too small for it, or K is none of its layers.
    """
    budget = resolve(version, tokens=tokens, layers=layers)
    prune_layer = 0 if version == FULL else prune_layer
    check_decision(budget, tokens=tokens, layers=layers, prune_layer=prune_layer)
    whole = budget.layers == layers
    return PruningConfig(
        version=version,
        keep=budget.tokens,
        layers=budget.layers,
        prune_layer=prune_layer,
        layer_policy="static" if whole else layer_policy,
        kept_layers=tuple(range(layers)) if whole else None,
    )


def pruning_configs(
    versions: Iterable[str], *, tokens: int, layers: int, prune_layer: int, policies: Sequence[LayerPolicy]
) -> tuple[PruningConfig, ...]:
    """Returns every one of ``versions`` under each of ``policies``, each once; see `pruning_config`."""
    model = {"tokens": tokens, "layers": layers, "prune_layer": prune_layer}
    found = [pruning_config(name, **model, layer_policy=policy) for name in versions for policy in policies]
    return tuple(dict.fromkeys(found))


def parse_keep(text: str) -> Keep:
    """Returns a share in (0, 1], exact, or a count from 2 on; 1 and 1.0 mean everything.

    Raises:
        InvalidBudget: It is neither.
    """
    wanted = "a share between 0 and 1 (0.25), a count of image tokens from 2 on (144), or 1 for all of them"
    number = re.fullmatch(r"(\d{0,9})(\.\d{1,9})?", text.strip(), re.ASCII)
    value = Fraction(number[0]) if number and number[0] else Fraction(0)
    if not value > 0 or (value > 1 and number and number[2]):
        raise InvalidBudget("impossible keep rule", where="--keep", got=text, wanted=wanted)
    return value if value <= 1 else int(value)


def custom_version(keep: Keep, layers: int | None, *, tokens: int, depth: int) -> str:
    """Returns the name of the version that keeps ``keep`` of N ``tokens`` and ``layers`` (None: all) of M ``depth``.

    A share is rounded half up and gives at least one token; a count above N means all of them.

    Raises:
        InvalidBudget: There are not so many layers.
    """
    kept = max(1, int(keep * tokens + Fraction(1, 2))) if isinstance(keep, Fraction) else min(keep, tokens)
    budget = Budget(kept, depth if layers is None else layers)
    check_decision(budget, tokens=tokens, layers=depth, prune_layer=0)
    return budget.name
