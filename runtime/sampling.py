"""From logits to the next token."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from allrounder.errors import BackendError, InputInvalid

__all__ = ["Sampling", "picker"]

Pick = Callable[[np.ndarray], int]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn.

    Args:
        temperature: 0 takes the best token (the lowest id on ties); above 0 the logits are divided by it.
        top_k: Only the best ``top_k`` tokens may be drawn (at least; equals of the last one stay in); 0 means all.
        top_p: Only the smallest set of best tokens whose probability reaches ``top_p`` may be drawn.
        seed: Same seed, same draws; None draws afresh each time.

    Raises:
        InputInvalid: A value out of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _require(_real(self.temperature) and self.temperature >= 0, "temperature", self.temperature, "0 or more")
        _require(_whole(self.top_k) and self.top_k >= 0, "top_k", self.top_k, "0 (all) or more")
        _require(_real(self.top_p) and 0 < self.top_p <= 1, "top_p", self.top_p, "above 0, up to 1")
        _require(self.seed is None or (_whole(self.seed) and self.seed >= 0), "seed", self.seed, "None, 0 or more")


def picker(sampling: Sampling) -> Pick:
    """Returns the function from ``logits`` [vocabulary] float32 to a token id; one per request, as it holds the draws.

    The function raises `BackendError` where the logits hold NaN or no finite value.
    """
    if sampling.temperature == 0:
        return _best
    generator = np.random.default_rng(sampling.seed)

    def draw(logits: np.ndarray) -> int:
        _best(logits)  # refuses NaN
        shares = _shares(logits.astype(np.float64), sampling)
        return int(np.searchsorted(np.cumsum(shares), generator.random() * shares.sum(), side="right"))

    return draw


def _best(logits: np.ndarray) -> int:
    best = int(np.argmax(logits))  # the first of equals, and the first NaN where there is one
    if not math.isfinite(logits[best]):
        raise BackendError("the engine gave logits that are not numbers", got=logits[best], remedy="build it anew")
    return best


def _shares(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Returns the probabilities, not normalised, of the tokens that may be drawn, 0 for the others."""
    shares = np.exp((logits - logits.max()) / sampling.temperature)
    if 0 < sampling.top_k < logits.size:
        shares[logits < np.partition(logits, -sampling.top_k)[-sampling.top_k]] = 0
    if sampling.top_p < 1:
        order = np.argsort(-logits, kind="stable")
        reached = np.cumsum(shares[order]) >= sampling.top_p * shares.sum()
        if reached.any():  # near 1, rounding may keep the sum below what is to be reached
            shares[order[int(np.argmax(reached)) + 1 :]] = 0
    return shares


def _real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(fine: bool, name: str, got: object, wanted: str) -> None:
    if not fine:
        raise InputInvalid("impossible sampling option", where=name, got=got, wanted=wanted)
