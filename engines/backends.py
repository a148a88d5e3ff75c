"""Which backends there are.

What it is: a dict from a backend's name to its module, imported on use.
What it knows: names. What it does not know: any backend's library.

A backend's module has ``build(frozen_dir, staging, options) -> tuple[Entry, ...]``: it reads what the exporter froze,
puts what its engines need into the staged bundle, and returns their entries.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from allrounder.engines.bundle import Staging
from allrounder.errors import EngineUnavailable
from allrounder.manifest import Entry
from allrounder.progress import Progress, silent

__all__ = ["BACKENDS", "Backend", "BuildOptions", "backend"]

BACKENDS: dict[str, str] = {"onnxruntime": "allrounder.engines.onnxruntime"}


class BuildOptions(NamedTuple):
    """What a build may ask of any backend."""

    device: str = "cpu"  # or "cuda"
    inline: bool = False  # also write flat twins of the graphs, without model-local functions
    force: bool = False  # build again what the bundle already holds
    native_op: bool = False  # the entries ask for the native gather op where a runtime has it
    only: frozenset[tuple[str, int, str]] | None = None  # version, gather layer, policy; None builds all that is frozen
    progress: Progress = silent


class Backend(Protocol):
    """What a backend's module offers."""

    build: Callable[[str | Path, Staging, BuildOptions], tuple[Entry, ...]]


def backend(name: str) -> Backend:
    """Returns the module of a backend.

    Raises:
        EngineUnavailable: There is no such backend, or its library is not installed.
    """
    if name not in BACKENDS:
        raise EngineUnavailable(f"there is no backend {name!r}", wanted=f"one of {', '.join(BACKENDS)}")
    try:
        return cast("Backend", import_module(BACKENDS[name]))
    except ImportError as error:
        raise EngineUnavailable(
            f"the backend {name!r} cannot be imported",
            got=error,
            remedy="pip install 'allrounder[build]'",
        ) from error
