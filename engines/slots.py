"""Caches of sequences, as backends hold them: many in one block of CPU memory, or one where only one can be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from allrounder.engines.sessions import Slots, Tensor
from allrounder.errors import EngineUnavailable

__all__ = ["ArraySlots", "OneSlot"]


class ArraySlots:
    """`Slots` in an array.

    Args:
        block: [B, G, C, D], zeros.
        tensor: Returns the backend's tensor in an array's own memory.
    """

    def __init__(self, block: np.ndarray, tensor: Callable[[np.ndarray], Tensor]) -> None:
        self._block, self._tensor = block, tensor

    def first(self, sequences: int) -> Tensor:
        return self._tensor(self._block[:sequences])

    def row(self, slot: int) -> Tensor:
        return self._tensor(self._block[slot : slot + 1])

    def move(self, source: int, target: int) -> None:
        self._block[target] = self._block[source]

    def clear(self, slot: int) -> None:
        self._block[slot] = np.zeros((), self._block.dtype)

    def resized(self, sequences: int, rows: int) -> Slots:
        slots, heads, held, width = self._block.shape
        block, both = np.zeros((slots, heads, rows, width), self._block.dtype), min(rows, held)
        block[:sequences, :, :both] = self._block[:sequences, :, :both]
        return ArraySlots(block, self._tensor)


class OneSlot:
    """`Slots` of one sequence, on a device where a cache is used for one request and keeps its size."""

    def __init__(self, tensor: Tensor, where: str) -> None:
        self._tensor, self._where = tensor, where

    def first(self, sequences: int) -> Tensor:
        require_one(sequences, self._where)
        return self._tensor

    def row(self, slot: int) -> Tensor:
        require_one(slot + 1, self._where)
        return self._tensor

    def move(self, source: int, target: int) -> None:
        require_one(max(source, target) + 1, self._where)

    def clear(self, slot: int) -> None:
        raise EngineUnavailable("a cache on a GPU serves one request", where=self._where, got=f"slot {slot} again")

    def resized(self, sequences: int, rows: int) -> Slots:
        got = f"{rows} rows for {sequences} sequences"
        raise EngineUnavailable("a cache on a GPU keeps its size", where=self._where, got=got)


def require_one(sequences: int, where: str) -> None:
    """Refuses more sequences than one, where a device holds no more.

    Raises:
        EngineUnavailable: There are more.
    """
    if sequences > 1:
        raise EngineUnavailable(
            "this engine holds one sequence alone on a GPU",
            where=where,
            got=sequences,
            wanted=1,
            remedy="ask one by one (slots=1), or load it on the CPU",
        )
