"""The one stopwatch: how long the phases of a request took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

__all__ = ["Phase", "Stopwatch"]

Phase = Callable[[str], AbstractContextManager[None]]  # what is opened around a phase


class Stopwatch:
    """Times phases, one after another; what happens between two (a stream's owner thinking) is not counted."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, float]] = []  # milliseconds

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times what is done within."""
        started = time.perf_counter()
        yield
        self.spans.append((name, (time.perf_counter() - started) * 1000))

    def of(self, name: str) -> float:
        """Returns the milliseconds of all phases of that name."""
        return sum(milliseconds for each, milliseconds in self.spans if each == name)

    @property
    def total(self) -> float:
        """The milliseconds of all phases."""
        return sum(milliseconds for _, milliseconds in self.spans)
