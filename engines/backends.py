"""Which backends there are.

What it is: a dict from a backend's name to its module, imported on use, and what such a module offers.
What it knows: names. What it does not know: any backend's library.

A backend is one file with three functions and a name:

- ``check(asked)`` refuses what the backend cannot express, with the reason and the nearest command line that works;
- ``opened(place, force=, progress=)`` opens the place where its builds end: a bundle (`bundle_output`), or a directory
  in somebody else's format. It refuses a place that is taken before any work is done;
- ``PLACE`` is where builds end that name no place, with ``{model}`` and ``{version}``;
- ``build(frozen_dir, staging, options) -> tuple[Entry, ...]`` reads what the exporter froze, puts what its engines need
  into the staged bundle, and returns their entries. Fidelity is measured by running them. A backend whose engines
  cannot be run here stages ONNX Runtime's of the same flow, and its `Output` writes that flow in its own format.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from allrounder.engines.bundle import Staging
from allrounder.errors import EngineUnavailable
from allrounder.manifest import Entry, LayerPolicy, Precision
from allrounder.progress import Progress, silent
from allrounder.sidecar import PrunedEntry

__all__ = ["BACKENDS", "Asked", "Backend", "BuildOptions", "Built", "Output", "backend"]

BACKENDS: dict[str, str] = {
    "onnxruntime": "allrounder.engines.onnxruntime",
    "openvino": "allrounder.engines.openvino",
    "checkpoint": "allrounder.engines.checkpoint",
    "tensorrt": "allrounder.engines.tensorrt",
    "tensorrt-rtx": "allrounder.engines.tensorrt_rtx",
    "tensorrt-llm": "allrounder.engines.tensorrt_llm",  # its engine path, legacy
}
_EXTRAS = {"openvino": "build,openvino"}  # what is installed for a backend; the others need `build`
Built = Entry | PrunedEntry  # one thing that was built, as it is told


class Asked(NamedTuple):
    """What a build asks for, as far as a backend may refuse it."""

    backend: str
    versions: tuple[str, ...]
    gather_layer: int  # K of every version but `full`, which gathers nowhere
    layer_policy: LayerPolicy  # of every version but `full`, which is always frozen
    precision: Precision
    words: tuple[str, ...] = ()  # the rest of the command line: model, router, place

    def command(self, **changed: Any) -> str:
        """Returns the command line that asks for the same, but for the fields in ``changed``."""
        asked = self._replace(**changed)
        flags = ("--backend", asked.backend, "--version", ",".join(asked.versions))
        flow = ("--gather-layer", str(asked.gather_layer), "--layer-policy", asked.layer_policy)
        return shlex.join(["allrounder", "build", *flags, *flow, "--precision", asked.precision, *asked.words])


class BuildOptions(NamedTuple):
    """What a build may ask of any backend."""

    device: str = "cpu"  # or "cuda"
    inline: bool = False  # also write flat twins of the graphs, without model-local functions
    force: bool = False  # build again what the bundle already holds
    native_op: bool = False  # the entries ask for the native gather op where a runtime has it
    only: frozenset[tuple[str, int, str]] | None = None  # version, gather layer, policy; None builds all that is frozen
    progress: Progress = silent


class Output(Protocol):
    """Where a build ends; nothing at the place changes before `publish`."""

    place: Path  # links resolved
    staging: Staging  # takes the graphs that are run to measure; for a bundle, the candidate itself
    notes: tuple[str, ...]  # what whoever uses the result must know

    def publish(self, frozen_dir: Path, entries: Sequence[Entry]) -> tuple[Built, ...]:
        """Puts what was built at the place, whole; ``entries`` stand in the staged bundle, figures included.

        Raises:
            BundleError: The file system refuses, or the place was taken meanwhile.
        """
        ...


class Backend(Protocol):
    """What a backend's module offers."""

    PLACE: str
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
        return cast("Backend", import_module(BACKENDS[name]))
    except ImportError as error:
        raise EngineUnavailable(
            f"the backend {name!r} cannot be imported",
            got=error,
            remedy=f"pip install 'allrounder[{_EXTRAS.get(name, 'build')}]'",
        ) from error
