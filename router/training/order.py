"""Order: which examples a step sees.

It is an endless walk over an example set, every example once per epoch, shuffled anew each time; and a memory of how
far each one diverged when it was last seen, from which the hard ones are drawn again (as in prioritised replay, Schaul
et al., 2016): most questions are easy, and their gradient is nothing. Place, seed and memory alone decide, so that a
resumed run goes on where it stopped.
"""

from __future__ import annotations

import hashlib

import torch

__all__ = ["Hard", "Walk", "mixed_seed"]


class Walk:
    """The order of ``count`` examples under a seed."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def take(self, start: int, count: int) -> list[int]:
        """Returns the indices at places ``start`` to ``start + count - 1`` of the walk."""
        return [self._at(place) for place in range(start, start + count)]

    def _at(self, place: int) -> int:
        epoch, rest = divmod(place, self._count)
        if epoch != self._epoch:
            chance = torch.Generator().manual_seed(mixed_seed("epoch", self._seed, epoch))
            self._epoch, self._order = epoch, torch.randperm(self._count, generator=chance)
        return int(self._order[rest])


class Hard:
    """Examples by how far they diverged when last seen; ``divergences`` float32 [count], 0 where unseen."""

    def __init__(self, count: int) -> None:
        self.divergences = torch.zeros(count)

    def remember(self, indices: list[int], divergences: torch.Tensor) -> None:
        """Takes note of ``divergences`` [B] of the examples ``indices``; what is not finite counts as nothing."""
        found = divergences.detach().float().cpu().nan_to_num(0.0, 0.0, 0.0).clamp_min(0.0)
        self.divergences[torch.tensor(indices)] = found

    def draw(self, count: int, chance: torch.Generator, but: list[int]) -> list[int]:
        """Returns up to ``count`` different examples, none of ``but``; the likelier the farther they diverged.

        Divergences are those of the budget that was drawn when they were seen, so a question that met a small budget
        counts as somewhat harder than it is.
        """
        weights = self.divergences.clone()
        weights[torch.tensor(but, dtype=torch.int64)] = 0.0
        count = min(count, int((weights > 0).sum()))
        return torch.multinomial(weights, count, generator=chance).tolist() if count else []


def mixed_seed(*parts: int | str) -> int:
    """Returns one seed for several numbers or names; those of neighbours have nothing in common."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, parts)).encode()).digest()[:7], "big")
