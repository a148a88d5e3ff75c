"""The KV pool of one request.

The caches that prefill gave are tied to the decode graph once and grow in place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from allrounder.engines.sessions import Bound, Cell, Session, Tensor
from allrounder.errors import BackendError, InputInvalid
from allrounder.tensors import INPUT_IDS, LOGITS, POSITIONS, SLOTS

__all__ = ["Cache", "Clocks"]


class Clocks(NamedTuple):
    """Where the next token goes: its position counts the unpruned prompt, its slot the rows that are held."""

    position: int
    slot: int
    free_slots: int  # free slots


class _Step(NamedTuple):
    """The decode graph tied to memory, for a fixed number of new tokens."""

    ids: Cell
    logits: Cell
    bound: Bound


class Cache:
    """The KV pool of one request; used by one thread at a time.

    ``tensors`` are prefill's outputs ``cache_*`` and, where dynamic, ``layer_mask``.
    """

    def __init__(self, decode: Session, tensors: Mapping[str, Tensor], clocks: Clocks, vocabulary: int) -> None:
        self._decode, self._clocks, self._vocabulary = decode, clocks, vocabulary
        self._positions = decode.cell(np.array([clocks.position], np.int64))
        self._slots = decode.cell(np.array([clocks.slot], np.int64))
        inputs = {POSITIONS: self._positions.tensor, SLOTS: self._slots.tensor, **tensors}
        if unknown := [name for name in decode.inputs if name != INPUT_IDS and name not in inputs]:
            raise BackendError("the decode graph wants what the prefill graph does not give", got=", ".join(unknown))
        self._inputs = {name: inputs[name] for name in decode.inputs if name != INPUT_IDS}
        # In place: each cache is output where it was input.
        self._outputs = {_out(name): tensor for name, tensor in self._inputs.items() if name.startswith("cache_")}
        self._steps: dict[int, _Step] = {}

    @property
    def clocks(self) -> Clocks:
        return self._clocks

    @property
    def numbers(self) -> int:
        """How many numbers the keys and values of this request are, free slots included."""
        return sum(math.prod(tensor.shape()) for tensor in self._outputs.values())

    def advance(self, ids: Sequence[int]) -> np.ndarray:
        """Puts ``ids`` behind what the cache holds and returns their ``logits`` [1, S, V] float32.

        Raises:
            InputInvalid: No token, or more of them than there are free slots.
            BackendError: The backend's library failed.
        """
        if not 1 <= len(ids) <= self._clocks.free_slots:
            raise InputInvalid(
                "the cache has no such free slots",
                where="ids",
                got=len(ids),
                wanted=f"1 to {self._clocks.free_slots} tokens",
            )
        step = self._steps.get(len(ids)) or self._tie(len(ids))
        step.ids.set(np.asarray([ids], np.int64))
        step.bound.run()
        position, slot, free_slots = self._clocks
        self._clocks = Clocks(position + len(ids), slot + len(ids), free_slots - len(ids))
        self._positions.set(np.asarray([self._clocks.position], np.int64))
        self._slots.set(np.asarray([self._clocks.slot], np.int64))
        return step.logits.get()

    def _tie(self, count: int) -> _Step:
        ids = self._decode.cell(np.zeros((1, count), np.int64))
        logits = self._decode.cell(np.zeros((1, count, self._vocabulary), np.float32))
        inputs = {INPUT_IDS: ids.tensor, **self._inputs}
        self._steps = {count: _Step(ids, logits, self._decode.bind(inputs, {LOGITS: logits.tensor, **self._outputs}))}
        return self._steps[count]


def _out(name: str) -> str:
    """Returns the output's name of a cache input: ``cache_key.3`` -> ``cache_key_out.3``."""
    kind, _, layer = name.partition(".")
    return f"{kind}_out.{layer}"
