"""The OpenVINO backend: flat copies of the frozen graphs are its engines; OpenVINO compiles each once."""

from __future__ import annotations

from pathlib import Path

import msgspec
import openvino

from allrounder.engines.backends import Asked, BuildOptions
from allrounder.engines.bundle.publish import PLACE, Staging, bundle_output
from allrounder.engines.entries import graph_paths, place_frozen
from allrounder.engines.graphs.flat import write_flat_copy
from allrounder.errors import BackendError, EngineUnavailable
from allrounder.manifest import Entry, EntryGraphs
from allrounder.pruning import LAYER_POLICIES

__all__ = ["BACKEND", "PLACE", "POLICIES", "build", "check", "opened"]

BACKEND = "openvino"
POLICIES = LAYER_POLICIES
opened = bundle_output


def check(asked: Asked) -> None:
    """Refuses nothing: every decision that can be frozen runs in OpenVINO, layers chosen per input included."""
    del asked


def build(frozen_dir: str | Path, staging: Staging, options: BuildOptions) -> tuple[Entry, ...]:
    """Builds the versions of a frozen directory, or those in ``options.only``; as ONNX Runtime's `build`.

    Raises:
        EngineUnavailable: Another device than the CPU.
        BackendError: OpenVINO refuses a graph; its message is quoted.
    """
    if options.device != "cpu":
        raise EngineUnavailable(
            "OpenVINO engines are built for the CPU",
            got=options.device,
            wanted="cpu",
            remedy="build with the device cpu, or with another backend",
        )
    placed = place_frozen(Path(frozen_dir), staging, BACKEND, options._replace(native_op=False))
    flat_copies = {path: write_flat_copy(staging, path) for path in graph_paths(placed)}
    for done, path in enumerate(flat_copies.values()):
        options.progress("compiling graphs", done, len(flat_copies))
        _compile(staging.path / path, path)
    options.progress("compiling graphs", len(flat_copies), len(flat_copies))
    entries = [msgspec.structs.replace(entry, graphs=_flat(entry.graphs, flat_copies)) for entry in placed]
    return staging.put(entries, force=options.force)


def _flat(graphs: EntryGraphs, flat_copies: dict[str, str]) -> EntryGraphs:
    paths = {name: path and flat_copies[path] for name, path in msgspec.structs.asdict(graphs).items()}
    return EntryGraphs(**paths)


def _compile(file: Path, path: str) -> None:
    try:
        openvino.Core().compile_model(file, "CPU", {"INFERENCE_NUM_THREADS": "1"})
    except Exception as error:  # OpenVINO's exceptions have no base of their own
        raise BackendError(
            "OpenVINO cannot compile a graph", where=path, got=f"{error} (openvino {openvino.__version__})"
        ) from error
