"""Versions: named pairs of budgets, in one table."""

from __future__ import annotations

import re
from typing import NamedTuple

from allrounder.errors import InvalidBudget, UnknownVersion

__all__ = ["DEFAULT_VERSION", "FULL", "VERSIONS", "Budget", "check_decision", "is_version", "resolve"]

FULL = "full"
DEFAULT_VERSION = "par-lite"
_TABLE_TOKENS, _TABLE_LAYERS = 576, 32
_CUSTOM = re.compile(r"t([1-9][0-9]{0,8})-l([1-9][0-9]{0,8})")


class Budget(NamedTuple):
    """How much is kept: T image ``tokens`` and L decoder ``layers``."""

    tokens: int
    layers: int

    @property
    def name(self) -> str:
        """The name of the version that has this budget and no name in the table."""
        return f"t{self.tokens}-l{self.layers}"


# Budgets for N = 576 and M = 32 (PAR, ICCV 2025, table 1). `par-base` is the one the paper trains at.
VERSIONS: dict[str, Budget] = {
    FULL: Budget(576, 32),
    "par-max": Budget(256, 28),
    "par-base": Budget(176, 28),
    "par-lite": Budget(144, 24),
    "par-nano": Budget(128, 24),
}


def is_version(name: str) -> bool:
    """Whether ``name`` is in the table or has the form ``t<T>-l<L>``."""
    return name in VERSIONS or _CUSTOM.fullmatch(name) is not None


def resolve(name: str, *, tokens: int, layers: int) -> Budget:
    """Returns the budget of version ``name`` for a model of ``tokens`` image tokens and ``layers`` decoder layers.

    Table versions scale by ratio, rounded half up; ``t<T>-l<L>`` is taken as it is.

    Raises:
        UnknownVersion: The name is neither in the table nor a custom one.
        InvalidBudget: A custom budget does not fit the model.
    """
    if custom := _CUSTOM.fullmatch(name):
        budget = Budget(int(custom[1]), int(custom[2]))
        check_decision(budget, tokens=tokens, layers=layers, prune_layer=0)
        return budget
    if name not in VERSIONS:
        raise UnknownVersion(
            f"there is no version {name!r}",
            wanted=f"one of {', '.join(VERSIONS)}, or a custom budget",
            remedy="give a name of the list, or --keep and --layers",
        )
    share = VERSIONS[name]
    return Budget(
        max(1, _scaled(share.tokens, tokens, _TABLE_TOKENS)), max(1, _scaled(share.layers, layers, _TABLE_LAYERS))
    )


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


def _scaled(share: int, whole: int, of: int) -> int:
    """Returns share / of * whole, rounded half up, in integers."""
    return (2 * share * whole + of) // (2 * of)
