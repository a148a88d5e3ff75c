"""Calls into libraries, bound to the process that opened what they work on.

A session belongs to one process. In a process forked from it every call raises and nothing is destroyed; when the
interpreter ends, calls that run are awaited and no more begin. All sessions are opened through `own`.

Threads do not survive a fork. A library's session waits for its threads when it is run and when it is destroyed, which
in a forked process is for ever; and what another thread had locked at that moment stays locked. At the interpreter's
end a daemon thread that comes back from a library, a destructor included, is ended inside of it, which aborts the
process. So both leave what a library made where it lies until the process has ended.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar
from weakref import WeakSet

import numpy as np

from allrounder.engines.sessions import Bound, Cell, Session, Slots, Tensor
from allrounder.errors import RuntimeClosed

__all__ = ["calling", "check_process", "inherited", "own"]

_T = TypeVar("_T")
_natives: WeakSet[object] = WeakSet()  # what holds memory, threads or locks of a library
_calls: set[object] = set()  # one for each call that is in a library right now
_ending: list[bool] = []  # not empty once the interpreter ends


def inherited(process: int) -> bool:
    """Returns whether this process is another one than ``process``: a fork of it."""
    return os.getpid() != process


def check_process(process: int, where: object) -> None:
    """Refuses what was made by ``process``, an id, and inherited by a fork of it; ``where`` names it.

    Raises:
        RuntimeClosed: This is another process.
    """
    if inherited(process):
        raise RuntimeClosed(
            "the engine was loaded before this process was forked",
            where=where,
            got=f"loaded in process {process}, used in process {os.getpid()}",
            remedy="load it in the process that uses it, after the fork, or start that process by spawn",
        )


@contextmanager
def calling(process: int, where: object) -> Iterator[None]:
    """Holds the interpreter's end for as long as a call is in a library; arguments as of `check_process`.

    Raises:
        RuntimeClosed: This is another process, or the interpreter ends.
    """
    check_process(process, where)
    call = object()
    _calls.add(call)
    try:
        if _ending:
            raise RuntimeClosed("the interpreter is ending", where=where, remedy="join the threads that use it")
        yield
    finally:
        _calls.discard(call)


def own(opened: Callable[[], Session], where: object) -> Session:
    """Returns the session that ``opened`` opens as one that belongs to this process; ``where`` names it in errors.

    Raises:
        RuntimeClosed: The interpreter ends.
    """
    with calling(os.getpid(), where):
        return _Session(_kept(opened()), where)


def _kept(native: _T) -> _T:
    _natives.add(native)
    return native


def _forget() -> None:
    """Takes references that nobody gives back, so that what a library made is destroyed by nothing but the system."""
    for native in list(_natives):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))


def _forked() -> None:
    _calls.clear()
    _forget()


def _end() -> None:
    _ending.append(True)
    _forget()
    while _calls:
        time.sleep(0.001)
    _forget()  # what the last calls made


os.register_at_fork(after_in_child=_forked)
atexit.register(_end)


class _Session:
    """A `Session`."""

    def __init__(self, session: Session, where: object) -> None:
        self._session, self._home = session, (os.getpid(), where)
        self.inputs, self.outputs = session.inputs, session.outputs

    def run(self, feeds: Mapping[str, Tensor | np.ndarray]) -> dict[str, Tensor]:
        with calling(*self._home):
            return {name: _kept(tensor) for name, tensor in self._session.run(feeds).items()}

    def bind(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Bound:
        with calling(*self._home):
            return _Bound(_kept(self._session.bind(inputs, outputs)), self._home)

    def cell(self, values: np.ndarray) -> Cell:
        with calling(*self._home):
            return _kept(self._session.cell(values))

    def zeros(self, name: str, shape: Sequence[int | None]) -> Tensor:
        with calling(*self._home):
            return _kept(self._session.zeros(name, shape))

    def slots(self, name: str, sequences: int, rows: int) -> Slots:
        with calling(*self._home):
            return _Slots(self._session.slots(name, sequences, rows), self._home)


class _Slots:
    """`Slots`."""

    def __init__(self, slots: Slots, home: tuple[int, object]) -> None:
        self._slots, self._home = slots, home

    def first(self, sequences: int) -> Tensor:
        with calling(*self._home):
            return _kept(self._slots.first(sequences))

    def row(self, slot: int) -> Tensor:
        with calling(*self._home):
            return _kept(self._slots.row(slot))

    def move(self, source: int, target: int) -> None:
        with calling(*self._home):
            self._slots.move(source, target)

    def clear(self, slot: int) -> None:
        with calling(*self._home):
            self._slots.clear(slot)

    def resized(self, sequences: int, rows: int) -> Slots:
        with calling(*self._home):
            return _Slots(self._slots.resized(sequences, rows), self._home)


class _Bound:
    """A `Bound`."""

    def __init__(self, bound: Bound, home: tuple[int, object]) -> None:
        self._bound, self._home = bound, home

    def run(self) -> dict[str, Tensor]:
        with calling(*self._home):
            return {name: _kept(tensor) for name, tensor in self._bound.run().items()}
