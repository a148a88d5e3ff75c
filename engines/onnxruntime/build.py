"""The ONNX Runtime backend: frozen graphs are its engines as they are; each is loaded once on the chosen device.

fp16 on a CPU is built and its latency stays null: on x86 ONNX Runtime runs it as casts around fp32, so a figure would
say nothing about fp16. The bundle is for a GPU then. bf16 it does not run on a CPU at all: there the graphs are placed,
as the exporter verified them, and not loaded.
"""

from __future__ import annotations

import os
from pathlib import Path

from allrounder.engines.backends import Asked, BuildOptions
from allrounder.engines.bundle.publish import PLACE, Staging, bundle_output
from allrounder.engines.entries import graph_paths, place_frozen
from allrounder.errors import BackendError, EngineUnavailable
from allrounder.manifest import Entry
from allrounder.native import ort_ops
from allrounder.pruning import LAYER_POLICIES

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, when the library initialises

import onnxruntime

__all__ = ["BACKEND", "PLACE", "POLICIES", "build", "check", "load_graph", "opened"]

BACKEND = "onnxruntime"
POLICIES = LAYER_POLICIES
opened = bundle_output
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def check(asked: Asked) -> None:
    """Refuses nothing: every decision that can be frozen runs in ONNX Runtime."""
    del asked


def build(frozen_dir: str | Path, staging: Staging, options: BuildOptions) -> tuple[Entry, ...]:
    """Builds the versions of a frozen directory, or those in ``options.only``, into the staged bundle.

    An entry that the bundle already holds with the same graphs is left as it is, figures included, unless
    ``options.force``; `Staging.reused` names it.

    Returns:
        The entries as they now are in the staged manifest, in the order of the frozen versions.

    Raises:
        InputInvalid: ``options.only`` names a version that was not frozen.
        EngineUnavailable: The device is not there.
        BackendError: ONNX Runtime refuses a graph; its message is quoted.
        BundleMismatch: The bundle was made from another model, router or prompt.
        BundleCorrupt: The frozen directory is damaged.
    """
    provider = _provider(options.device)
    entries = place_frozen(Path(frozen_dir), staging, BACKEND, options)
    graphs = graph_paths(entries)
    if options.device == "cpu" and any(entry.precision == "bf16" for entry in entries):
        graphs = []
    gathering = {entry.graphs.decoder for entry in entries if entry.native_op}
    for done, path in enumerate(graphs):
        options.progress("loading graphs", done, len(graphs))
        load_graph(staging.path / path, path, provider)
        if path in gathering and (library := ort_ops()):
            load_graph(staging.path / path, path, provider, library)
    options.progress("loading graphs", len(graphs), len(graphs))
    return staging.put(entries, force=options.force)


def _provider(device: str) -> str:
    """Returns the execution provider of a device, or refuses."""
    available = onnxruntime.get_available_providers()
    provider = _PROVIDERS.get(device)
    if provider is not None and provider in available:
        return provider
    raise EngineUnavailable(
        f"ONNX Runtime has no device {device!r} here",
        got=f"onnxruntime {onnxruntime.__version__} with {', '.join(available)}",
        wanted=" or ".join(_PROVIDERS),
        remedy="pip uninstall onnxruntime, then pip install onnxruntime-gpu" if device == "cuda" else None,
    )


def load_graph(file: Path, path: str, provider: str = "CPUExecutionProvider", native_op: Path | None = None) -> None:
    """Shows that ONNX Runtime loads a graph, without copying its weights: they stay mapped from the file.

    Packing and folding would each make a private copy, of a whole 7B if need be. ``path`` is what an error calls it.

    Raises:
        BackendError: It does not.
        EngineUnavailable: The provider does not start.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False
    options.intra_op_num_threads = 1
    try:
        if native_op:
            options.register_custom_ops_library(os.fspath(native_op))
        session = onnxruntime.InferenceSession(str(file), options, providers=[provider])
    except Exception as error:  # ONNX Runtime's exceptions have no base of their own
        loaded_with = ", ".join(map(str, filter(None, (f"onnxruntime {onnxruntime.__version__}", provider, native_op))))
        raise BackendError("ONNX Runtime cannot load a graph", where=path, got=f"{error} ({loaded_with})") from error
    if provider not in session.get_providers():
        raise EngineUnavailable(
            f"ONNX Runtime cannot start {provider}",
            where=path,
            got=", ".join(session.get_providers()),
            remedy="install the CUDA and cuDNN libraries that onnxruntime-gpu names, or build with the device cpu",
        )
