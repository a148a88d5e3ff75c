"""The pruning of one engine: five facts in one record, from the command line to the manifest."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Literal

from msgspec import Meta

from allrounder.errors import InvalidBudget
from allrounder.records import Count, Positive, Record
from allrounder.versions import EVERYTHING, FULL, Budget, Keep, check_decision, keep_of, kept_tokens, resolve

__all__ = [
    "LAYER_POLICIES",
    "LayerPolicy",
    "PruningConfig",
    "PruningKey",
    "custom_version",
    "parse_keep",
    "pruning_config",
    "pruning_configs",
    "requested_keep",
]

LayerPolicy = Literal["static", "dynamic"]  # one list of layers for all inputs, or layers chosen per input
LAYER_POLICIES: tuple[LayerPolicy, ...] = ("static", "dynamic")
KeepRule = Annotated[str, Meta(pattern=r"^(1|[1-9][0-9]{0,8}/[1-9][0-9]{0,9}|[2-9]|[1-9][0-9]{1,8})\Z")]
PruningKey = tuple[str, int, LayerPolicy]


class PruningConfig(Record, frozen=True, kw_only=True):
    """What one engine keeps of its model."""

    version: str  # of the table, or t<T>-l<L>
    keep: KeepRule  # of each image's tokens: a share ("1/4"), a count ("144"), or "1": all
    layers: Positive  # L decoder layers
    prune_layer: Count  # K: from this layer on only kept image tokens are there
    layer_policy: LayerPolicy
    kept_layers: tuple[Count, ...] | None  # where static, ascending; None there: the layers are not ranked yet

    @property
    def key(self) -> PruningKey:
        """What makes it the same as another of the same model: a version is built once per K and policy."""
        return (self.version, self.prune_layer, self.layer_policy)

    @property
    def keep_rule(self) -> Keep:
        """Which image tokens are kept, as a number."""
        value = Fraction(self.keep)
        return value if value <= 1 or value.denominator > 1 else int(value)

    def budget(self, tokens: int) -> Budget:
        """Returns T and L for images of N ``tokens``."""
        return Budget(kept_tokens(self.keep_rule, tokens), self.layers)

    @property
    def size(self) -> int:
        """T x L for an image of 576 tokens: by it budgets are ordered, whatever a prompt's images are."""
        tokens, layers = self.budget(576)
        return tokens * layers

    @property
    def prunes(self) -> bool:
        """Whether image tokens are dropped."""
        return self.keep_rule != EVERYTHING

    @property
    def routes(self) -> bool:
        """Whether it needs scores."""
        return self.prunes or self.layer_policy == "dynamic"

    @property
    def unranked(self) -> bool:
        """Whether its list of layers is still to be made."""
        return self.layer_policy == "static" and self.kept_layers is None

    def check(self, *, layers: int) -> None:
        """Checks that a model of M ``layers`` can be pruned so.

        Raises:
            InvalidBudget: It cannot, or the kept layers contradict the rest.
        """
        if self.keep_rule == 0 or (self.keep_rule > 1 and isinstance(self.keep_rule, Fraction)):
            raise InvalidBudget("impossible keep rule", got=self.keep, wanted="a share up to 1, or a count from 2 on")
        check_decision(Budget(1, self.layers), tokens=1, layers=layers, prune_layer=self.prune_layer)
        if self.version == FULL and (self.prunes or self.layers != layers or self.layer_policy != "static"):
            got, wanted = f"{self.keep}/{self.layers}, {self.layer_policy}", f"1/{layers}, static"
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


def pruning_config(version: str, *, layers: int, prune_layer: int, layer_policy: LayerPolicy) -> PruningConfig:
    """Returns how ``version`` prunes a model of M ``layers``; static layers are still to be ranked.

    A version that keeps every layer has nothing to choose: it is static, its layers are all. `full` drops no token
    at any layer: its K is 0.

    Raises:
        UnknownVersion: There is no such version.
        InvalidBudget: The model is too small for it, or K is none of its layers.
    """
    kept = resolve(version, tokens=1, layers=layers).layers
    prune_layer = 0 if version == FULL else prune_layer
    check_decision(Budget(1, kept), tokens=1, layers=layers, prune_layer=prune_layer)
    return PruningConfig(
        version=version,
        keep=str(keep_of(version)),
        layers=kept,
        prune_layer=prune_layer,
        layer_policy="static" if kept == layers else layer_policy,
        kept_layers=tuple(range(layers)) if kept == layers else None,
    )


def pruning_configs(
    versions: Iterable[str], *, layers: int, prune_layer: int, policies: Sequence[LayerPolicy]
) -> tuple[PruningConfig, ...]:
    """Returns every one of ``versions`` under each of ``policies``, each once; see `pruning_config`."""
    found = [
        pruning_config(name, layers=layers, prune_layer=prune_layer, layer_policy=policy)
        for name in versions
        for policy in policies
    ]
    return tuple(dict.fromkeys(found))


def parse_keep(text: str, where: str = "--keep") -> Keep:
    """Returns a share in (0, 1], exact, or a count from 2 on; 1 and 1.0 mean everything.

    Raises:
        InvalidBudget: It is neither.
    """
    wanted = "a share between 0 and 1 (0.25), a count of image tokens from 2 on (144), or 1 for all of them"
    number = re.fullmatch(r"(\d{0,9})(\.\d{1,9})?", text.strip(), re.ASCII)
    value = Fraction(number[0]) if number and number[0] else Fraction(0)
    if not value > 0 or (value > 1 and number and number[2]):
        raise InvalidBudget("impossible keep rule", where=where, got=text, wanted=wanted)
    return value if value <= 1 else int(value)


def requested_keep(value: object) -> Keep:
    """Returns the keep rule that a request asks for: a number as of `parse_keep`.

    Raises:
        InvalidBudget: It is none.
    """
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    share = isinstance(number, float) and 0 < number <= 1
    text = f"{number:.9f}".rstrip("0").rstrip(".") if share else "0"
    return parse_keep(repr(value) if text == "0" else text, "keep")


def custom_version(keep: Keep, layers: int) -> str:
    """Returns the name of the version that keeps ``keep`` of each image's tokens, and ``layers``."""
    share = f"{float(keep):.9f}".rstrip("0").rstrip(".")  # as many digits as `parse_keep` takes
    return f"t{keep if isinstance(keep, int) else share}-l{layers}"
