"""What a backend's `build` module offers, and how one is found in the table of backends.

- ``check(asked)`` refuses what the backend cannot express, with the reason and the nearest command line that works;
- ``opened(place, force=, progress=)`` opens the place where its builds end: a bundle (`bundle_output`), or a directory
  in somebody else's format. It refuses a place that is taken before any work is done;
- ``POLICIES`` are the layer policies of what it runs, which are built where nobody asks for one;
- ``PLACE`` is where builds end that name no place, with ``{model}`` and ``{version}``;
- ``build(frozen_dir, staging, options) -> tuple[Entry, ...]`` reads what the exporter froze, puts what its engines need
  into the staged bundle, and returns their entries. Fidelity is measured by running them. A backend whose engines
  cannot be run here stages ONNX Runtime's of the same decision, and its `Output` writes that decision in its own
  format.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from allrounder.engines.bundle.publish import Staging
from allrounder.engines.checkpoint.sidecar import PrunedEntry
from allrounder.engines.table import BACKENDS
from allrounder.errors import EngineUnavailable
from allrounder.manifest import Entry, Precision
from allrounder.progress import Progress, silent
from allrounder.pruning import LayerPolicy, PruningConfig, PruningKey

__all__ = ["Asked", "Backend", "BuildOptions", "Built", "Output", "backend"]

Built = Entry | PrunedEntry  # one thing that was built, as it is reported


class Asked(NamedTuple):
    """What a build asks for, as far as a backend may refuse it."""

    backend: str
    prunings: tuple[PruningConfig, ...]
    precision: Precision
    words: tuple[str, ...] = ()  # the rest of the command line: model, router, place

    @property
    def versions(self) -> tuple[str, ...]:
        """The names of what is asked for, each once."""
        return tuple(dict.fromkeys(pruning.version for pruning in self.prunings))

    @property
    def dynamic(self) -> bool:
        """Whether layers are to be chosen per input."""
        return any(pruning.layer_policy == "dynamic" for pruning in self.prunings)

    @property
    def prune_layer(self) -> int:
        """K of every version but `full`."""
        return max(pruning.prune_layer for pruning in self.prunings)

    def static_command(self, **changed: str) -> str:
        """Returns the command line that asks for the same with static layers, but for the flags in ``changed``."""
        flags = {
            "backend": self.backend,
            "version": ",".join(self.versions),
            "prune_layer": str(self.prune_layer),
            "layer_policy": "static",
            "precision": self.precision,
            **changed,
        }
        given = [part for flag, value in flags.items() for part in (f"--{flag.replace('_', '-')}", value)]
        return shlex.join(["allrounder", "build", *given, *self.words])


class BuildOptions(NamedTuple):
    """What a build may ask of any backend."""

    device: str = "cpu"  # or "cuda"
    force: bool = False  # build again what the bundle already holds
    native_op: bool = False  # the entries ask for the native gather op where a runtime has it
    only: frozenset[PruningKey] | None = None  # None builds all that is frozen
    progress: Progress = silent


class Output(Protocol):
    """Where a build ends; nothing at the place changes before `publish`."""

    place: Path  # links resolved
    staging: Staging  # takes the graphs that are run to measure; for a bundle, the candidate itself
    notes: tuple[str, ...]  # what whoever uses the result must know

    def publish(self, frozen_dir: Path, entries: Sequence[Entry]) -> tuple[Built, ...]:
        """Puts what was built at the place, whole; ``entries`` are in the staged bundle, figures included.

        Raises:
            BundleError: The file system refuses, or the place was taken meanwhile.
        """
        ...


class Backend(Protocol):
    """What a backend's module offers."""

    PLACE: str
    POLICIES: tuple[LayerPolicy, ...]
    check: Callable[[Asked], None]
    build: Callable[[str | Path, Staging, BuildOptions], tuple[Entry, ...]]

    def opened(self, place: Path, *, force: bool, progress: Progress) -> AbstractContextManager[Output]: ...


def backend(name: str) -> Backend:
    """Returns the module of a backend.

    Raises:
        EngineUnavailable: There is no such backend, or its library is not installed.
    """
    if name not in BACKENDS:
        raise EngineUnavailable(f"there is no backend {name!r}", wanted=f"one of {', '.join(BACKENDS)}")
    try:
        return cast("Backend", import_module(BACKENDS[name].build))
    except ImportError as error:
        raise EngineUnavailable(
            f"the backend {name!r} cannot be imported",
            got=error,
            remedy=f"pip install 'allrounder[{BACKENDS[name].extra}]'",
        ) from error
