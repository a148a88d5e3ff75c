"""Versions: named pruning budgets, in one table, and what their shares are of an image and of a model."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from allrounder.errors import InvalidBudget, UnknownVersion

__all__ = [
    "DEFAULT_VERSION",
    "EVERYTHING",
    "FULL",
    "VERSIONS",
    "Budget",
    "Keep",
    "check_decision",
    "is_version",
    "keep_of",
    "kept_tokens",
    "resolve",
]

FULL = "full"
DEFAULT_VERSION = "par-lite"
Keep = Fraction | int  # a share of an image's tokens in (0, 1], or a count of them from 2 on
EVERYTHING: Keep = Fraction(1)
_CUSTOM = re.compile(r"t(0?\.[0-9]{1,9}|[1-9][0-9]{0,8})-l([1-9][0-9]{0,8})")


class Budget(NamedTuple):
    """How much is kept: T of one image's ``tokens``, and L decoder ``layers``."""

    tokens: int
    layers: int


class _Shares(NamedTuple):
    tokens: Fraction
    layers: Fraction


# Shares of N = 576 and M = 32 (PAR, ICCV 2025, table 1). `par-base` is the one the paper trains at.
VERSIONS: dict[str, _Shares] = {
    FULL: _Shares(Fraction(1), Fraction(1)),
    "par-max": _Shares(Fraction(256, 576), Fraction(28, 32)),
    "par-base": _Shares(Fraction(176, 576), Fraction(28, 32)),
    "par-lite": _Shares(Fraction(144, 576), Fraction(24, 32)),
    "par-nano": _Shares(Fraction(128, 576), Fraction(24, 32)),
}


def is_version(name: str) -> bool:
    """Whether ``name`` stands in the table or has the form ``t<keep>-l<L>``, keep a share below 1 or a count."""
    return name in VERSIONS or _CUSTOM.fullmatch(name) is not None


def keep_of(name: str) -> Keep:
    """Returns which image tokens version ``name`` keeps.

    Raises:
        UnknownVersion: The name is neither in the table nor a custom one.
        InvalidBudget: A share of nothing.
    """
    if custom := _CUSTOM.fullmatch(name):
        keep = Fraction(custom[1])
        if keep == 0:
            raise InvalidBudget("a share of nothing", got=name, wanted="a share above 0")
        return keep if keep <= 1 else int(keep)
    return _shares(name).tokens


def kept_tokens(keep: Keep, tokens: int) -> int:
    """Returns T of one image's N ``tokens``: a share rounded half up, at least 1; a count, at most N."""
    if isinstance(keep, int):
        return min(keep, tokens)
    return min(tokens, max(1, int(keep * tokens + Fraction(1, 2))))


def resolve(name: str, *, tokens: int, layers: int) -> Budget:
    """Returns the budget of version ``name`` for images of ``tokens`` tokens and a model of ``layers`` decoder layers.

    Shares are rounded half up and give at least 1.

    Raises:
        UnknownVersion: The name is neither in the table nor a custom one.
        InvalidBudget: A custom budget does not fit the model.
    """
    kept = kept_tokens(keep_of(name), tokens)
    if custom := _CUSTOM.fullmatch(name):
        budget = Budget(kept, int(custom[2]))
        check_decision(budget, tokens=tokens, layers=layers, prune_layer=0)
        return budget
    return Budget(kept, max(1, int(_shares(name).layers * layers + Fraction(1, 2))))


def _shares(name: str) -> _Shares:
    if name not in VERSIONS:
        raise UnknownVersion(
            f"there is no version {name!r}",
            wanted=f"one of {', '.join(VERSIONS)}, or a custom budget",
            remedy="give a name of the list, or --keep and --layers",
        )
    return VERSIONS[name]


def check_decision(budget: Budget, *, tokens: int, layers: int, prune_layer: int) -> None:
    """Checks that a decision of this budget exists for N ``tokens``, M ``layers`` and K ``prune_layer``.

    Raises:
        InvalidBudget: Not (1 <= T <= N, max(K, 1) <= L <= M, 0 <= K < M).
    """
    if not 0 <= prune_layer < layers:
        raise InvalidBudget("impossible prune layer", got=prune_layer, wanted=f"0 to {layers - 1}")
    if not 1 <= budget.tokens <= tokens:
        raise InvalidBudget("impossible number of image tokens", got=budget.tokens, wanted=f"1 to {tokens}")
    lowest = max(prune_layer, 1)
    if not lowest <= budget.layers <= layers:
        raise InvalidBudget(
            "impossible number of decoder layers",
            got=budget.layers,
            wanted=f"{lowest} to {layers} (the {prune_layer} layers below the prune layer are always kept)",
        )
