"""The door of a runtime: calls come in until it is closed, and what ends the requests that are in."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from allrounder.engines.process import check_process, inherited
from allrounder.errors import RequestCancelled, RuntimeClosed

if TYPE_CHECKING:
    from allrounder.runtime.engine import Engine

__all__ = ["Cancellation", "Door"]


class Cancellation:
    """Passed to a request; `cancel` ends it with `RequestCancelled`.

    One object may be passed to several requests; it cancels all of them, and stays cancelled.
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Asks the requests to end before their next step; returns at once."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raises `RequestCancelled` where `cancel` was called."""
        if self._event.is_set():
            raise RequestCancelled("the request was cancelled")


class Door:
    """Lets any number of threads compute with an engine until it is closed; belongs to the process that made it."""

    def __init__(self, engine: Engine) -> None:
        self._engine: Engine | None = engine
        self._where, self._process = engine.entry.label, os.getpid()
        self._condition = threading.Condition()  # guards the three below
        self._inside = 0  # calls that are computing right now
        self._closed = False  # no new requests
        self._cancelled = False  # and none goes on

    @property
    def inherited(self) -> bool:
        """Whether this process was forked from the one that made it."""
        return inherited(self._process)

    def engine(self) -> Engine:
        """Returns the engine, for a new request.

        Raises:
            RuntimeClosed: It is closed, or this process was forked from the one that made it.
        """
        self.check_process()  # first: a thread that did not come along may hold the condition
        with self._condition:
            if self._closed or self._engine is None:
                raise RuntimeClosed("the runtime is closed", where=self._where, remedy="load it again")
            return self._engine

    def check(self, cancel: Cancellation) -> None:
        """Asked before each step of a request.

        Raises:
            RequestCancelled: By ``cancel``, or because it was closed.
        """
        cancel.check()
        if self._cancelled:
            raise RequestCancelled("the request was cancelled because the runtime was closed")

    def check_process(self) -> None:
        """Raises `RuntimeClosed` in a process that was forked from the one that made it."""
        check_process(self._process, self._where)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Opened around what computes: `close` waits for it.

        Raises:
            RuntimeClosed: This process was forked from the one that made it.
        """
        self.check_process()
        with self._condition:
            self._inside += 1
        try:
            yield
        finally:
            with self._condition:
                self._inside -= 1
                self._condition.notify_all()

    def close(self, *, cancel: bool) -> bool:
        """Closes, waits until nothing computes any more, and lets the engine go; ``cancel`` ends requests that run.

        Returns:
            Whether it was open.

        Raises:
            RuntimeClosed: This process was forked from the one that made it.
        """
        self.check_process()
        with self._condition:
            self._closed = True
            self._cancelled |= cancel
            self._condition.wait_for(lambda: self._inside == 0)
            self._cancelled = True
            was_open, self._engine = self._engine is not None, None
            return was_open
