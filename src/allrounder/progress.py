"""Progress: how work shows that it is alive, and what people should know of it."""

from __future__ import annotations

import sys
import time
from typing import Protocol, TextIO

__all__ = ["Progress", "TerminalProgress", "note", "silent"]


class Progress(Protocol):
    """Called as ``progress("calibrating", 3, 64)``: step 3 of 64 is done; where nobody knows of how many, of 0.

    Step 0 of 0 is a note: ``task`` is a line for people, and no work.
    """

    def __call__(self, task: str, done: int, total: int) -> None: ...


def silent(task: str, done: int, total: int) -> None:
    """Shows nothing."""
    del task, done, total


def note(progress: Progress, line: str) -> None:
    """Gives a line that people should read, by the same way."""
    progress(line, 0, 0)


class TerminalProgress:
    """One updating line per task on a terminal; elsewhere one line when a task starts and one when it ends.

    A note is a line of its own.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._task = ""
        self._started = self._drawn = 0.0

    def __call__(self, task: str, done: int, total: int) -> None:
        if done == total == 0:
            self._stream.write(f"{task}\n")
            self._stream.flush()
            return
        now = time.monotonic()
        fresh, ended = task != self._task, done >= total > 0
        if fresh:
            self._task, self._started = task, now
        live = self._stream.isatty()
        if not (fresh or ended or (live and now - self._drawn > 0.1)):
            return
        self._drawn = now
        seconds = now - self._started
        line = f"{task}: {done}/{total or '?'}" + (f" ({seconds:.1f} s)" if not fresh or ended else "")
        self._stream.write(f"\r\x1b[K{line}" + ("\n" if ended else "") if live else f"{line}\n")
        self._stream.flush()
        if ended:
            self._task = ""  # the same task again is a new one
