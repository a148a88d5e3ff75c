"""What a backend's `session` module offers, and whether this process can run engines of a backend."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from allrounder.engines.options import EngineOptions
from allrounder.engines.table import BACKENDS
from allrounder.errors import EngineUnavailable
from allrounder.fingerprint import Machine
from allrounder.manifest import Entry

__all__ = [
    "BFLOAT16",
    "Backend",
    "Bound",
    "Cell",
    "Session",
    "Slots",
    "Tensor",
    "backend",
    "check_precision",
    "runs_on_cpu",
    "why_not",
]

BFLOAT16 = np.dtype("V2")  # numpy has none: two bytes each, which are handed on and never read


class Tensor(Protocol):
    """A tensor where the backend wants it."""

    def numpy(self) -> np.ndarray:
        """Returns the values; they may share the tensor's memory, so copy what outlives it."""
        ...

    def shape(self) -> list[int]: ...


class Cell(Protocol):
    """A small tensor of fixed shape whose values are replaced in place, so that it need not be bound again."""

    tensor: Tensor

    def set(self, values: np.ndarray) -> None: ...

    def get(self) -> np.ndarray: ...


class Slots(Protocol):
    """Caches of several sequences in one block, [B, G, C, D], zeroed when made."""

    def first(self, sequences: int) -> Tensor:
        """Returns [sequences, G, C, D] of the block."""
        ...

    def row(self, slot: int) -> Tensor:
        """Returns [1, G, C, D] of the block."""
        ...

    def move(self, source: int, target: int) -> None:
        """Copies one sequence over another."""
        ...

    def clear(self, slot: int) -> None:
        """Zeroes one sequence: what an attention never sees still must not be NaN."""
        ...

    def resized(self, sequences: int, rows: int) -> Slots:
        """Returns another block of as many slots, with ``rows`` each, which holds what fits of the first sequences."""
        ...


class Bound(Protocol):
    """A session with its inputs, and outputs that are to lie somewhere, tied to memory."""

    def run(self) -> dict[str, Tensor]:
        """Computes the outputs from what the inputs hold now; returns those that are tied to nothing.

        Raises:
            BackendError: The backend's library failed, or an output has another shape than what it is tied to.
        """
        ...


class Session(Protocol):
    """One loaded graph; any number of threads may run it at once."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, feeds: Mapping[str, Tensor | np.ndarray]) -> dict[str, Tensor]:
        """Returns all outputs, in memory of their own.

        Raises:
            BackendError: The backend's library failed.
        """
        ...

    def bind(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Bound:
        """Ties inputs and outputs to memory; an output may share that of an input."""
        ...

    def cell(self, values: np.ndarray) -> Cell: ...

    def zeros(self, name: str, shape: Sequence[int | None]) -> Tensor:
        """Returns zeros for an input; None takes the extent that the graph states."""
        ...

    def slots(self, name: str, sequences: int, rows: int) -> Slots:
        """Returns zeroed caches [sequences, G, rows, D] for a cache input.

        Raises:
            EngineUnavailable: This backend holds one sequence alone where it runs.
        """
        ...


class Backend(Protocol):
    """A backend's module."""

    def open_session(self, path: Path, options: EngineOptions, *, native_op: bool = False) -> Session:
        """Loads a graph; with the native gather op, where that is asked for and there is one.

        Raises:
            EngineUnavailable: The library or the device is not there.
            BackendError: The library refuses the graph.
        """
        ...

    def fingerprint(self, options: EngineOptions) -> Machine:
        """Returns this machine as far as the latency of engines opened with ``options`` depends on it.

        Raises:
            EngineUnavailable: The library or the device is not there.
        """
        ...


def backend(name: str) -> Backend:
    """Returns the backend of that name.

    Raises:
        EngineUnavailable: This runtime has none of that name.
    """
    runnable = [known for known, row in BACKENDS.items() if row.runs]
    if name not in runnable:
        raise EngineUnavailable(
            "this runtime cannot run engines of that backend", got=name, wanted=f"one of {', '.join(runnable)}"
        )
    return cast("Backend", importlib.import_module(BACKENDS[name].session))


def runs_on_cpu(name: str, options: EngineOptions) -> bool:
    """Whether engines of that backend, opened with ``options``, run on the CPU."""
    return options.device_kind == "cpu" and not BACKENDS[name].gpu_alone


def check_precision(entry: Entry, options: EngineOptions) -> None:
    """Checks that a backend computes in the precision of ``entry`` where ``options`` open it.

    Raises:
        EngineUnavailable: It does not; said before its library says so of some node.
    """
    if entry.precision in BACKENDS[entry.backend].cpu_lacks and runs_on_cpu(entry.backend, options):
        raise EngineUnavailable(
            f"{entry.backend} does not compute in {entry.precision} on a CPU",
            where=entry.label,
            got=f"device={options.device!r}",
            wanted="a GPU (device='cuda')",
            remedy="load it there, or build for the CPU: --precision fp32, or --backend openvino",
        )


def why_not(entry: Entry, options: EngineOptions) -> EngineUnavailable | None:
    """Returns why this process cannot run engines like ``entry``, opened with ``options``, or None where it can."""
    try:
        backend(entry.backend)
        check_precision(entry, options)
    except EngineUnavailable as error:
        return error
    return None
