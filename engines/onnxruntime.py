"""The ONNX Runtime backend: frozen graphs are its engines as they are.

What it is: it places graphs, weights and tokenizer in the staged bundle and shows that ONNX Runtime loads each graph
on the chosen device.
What it knows: ONNX Runtime's session options. What it does not know: what the graphs compute.

fp16 on a CPU is built and its latency stays null: on x86 ONNX Runtime runs it as casts around fp32, so a figure
would say nothing about fp16. The bundle is for a GPU then.
"""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import onnx.inliner

from allrounder.engines.backends import Asked, BuildOptions
from allrounder.engines.bundle import Staging, bundle_output
from allrounder.engines.frozen import read_frozen, verify_frozen
from allrounder.engines.merging import Identity, flat_twin
from allrounder.errors import BackendError, EngineUnavailable, InputInvalid
from allrounder.manifest import Entry, EntryGraphs, Frozen
from allrounder.native import ort_ops

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, when the library initialises

import onnxruntime

__all__ = ["BACKEND", "build", "check", "opened"]

BACKEND = "onnxruntime"
opened = bundle_output
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def check(asked: Asked) -> None:
    """Refuses nothing: every flow that can be frozen runs in ONNX Runtime."""
    del asked


def build(frozen_dir: str | Path, staging: Staging, options: BuildOptions) -> tuple[Entry, ...]:
    """Builds the versions of a frozen directory, or those in ``options.only``, into the staged bundle.

    An entry that the bundle already holds with the same graphs is left as it is, figures included, unless
    ``options.force``; `Staging.reused` names it.

    Returns:
        The entries as they now stand in the staged manifest, in the order of the frozen versions.

    Raises:
        InputInvalid: ``options.only`` names a version that was not frozen.
        EngineUnavailable: The device is not there.
        BackendError: ONNX Runtime refuses a graph; its message is quoted.
        BundleMismatch: The bundle was made from another host, router or prompt.
        BundleCorrupt: The frozen directory is damaged.
    """
    source = Path(frozen_dir)
    provider = _provider(options.device)
    frozen = read_frozen(source)
    staging.accept(Identity.of(frozen))
    entries = _entries(frozen, options)
    verify_frozen(source, frozen, options.progress)
    for path, record in frozen.files.items():
        staging.place_file(source / path, path, record)
    graphs = sorted({path for entry in entries for path in _paths(entry.graphs)})
    if options.inline:
        graphs += [_write_twin(staging, path) for path in graphs]
    gathering = {entry.graphs.prefill for entry in entries if entry.native_op}
    for done, path in enumerate(graphs):
        options.progress("loading graphs", done, len(graphs))
        _load(staging.path / path, path, provider)
        if path in gathering and (library := ort_ops()):
            _load(staging.path / path, path, provider, library)
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


def _entries(frozen: Frozen, options: BuildOptions) -> tuple[Entry, ...]:
    shared, only = frozen.graphs, options.only
    there = {(version.version, version.gather_layer, version.layer_policy) for version in frozen.versions}
    if only is not None and not (only and only <= there):
        raise InputInvalid("these versions were not frozen", got=sorted(only - there), wanted=sorted(there))
    return tuple(
        Entry(
            version=version.version,
            backend=BACKEND,
            precision=frozen.precision,
            gather_layer=version.gather_layer,
            layer_policy=version.layer_policy,
            layer_plan=version.layer_plan,
            tokens=version.tokens,
            layers=version.layers,
            graphs=EntryGraphs(
                preprocess=shared.preprocess,
                vision=shared.vision,
                # `full` and its like keep every token and layer: nothing to route.
                router=shared.router if _routes(version.tokens, version.layer_policy, frozen) else None,
                prefill=version.prefill,
                decode=version.decode,
            ),
            fidelity=None,
            latency=None,
            # A version that keeps every token gathers nothing.
            native_op=options.native_op and version.tokens < frozen.model.visual_tokens,
        )
        for version in frozen.versions
        if only is None or (version.version, version.gather_layer, version.layer_policy) in only
    )


def _routes(tokens: int, policy: str, frozen: Frozen) -> bool:
    return tokens < frozen.model.visual_tokens or policy == "routed"


def _paths(graphs: EntryGraphs) -> list[str]:
    paths = (graphs.preprocess, graphs.vision, graphs.router, graphs.prefill, graphs.decode)
    return [path for path in paths if path is not None]


def _write_twin(staging: Staging, path: str) -> str:
    """Writes a graph's twin without model-local functions, for runtimes that do not expand them (OpenVINO)."""
    twin = flat_twin(path)
    if twin not in staging.files:  # names are by content: a twin of the same graph is the same
        model = onnx.load(staging.path / path, load_external_data=False)
        staging.write_file(twin, _flat(model).SerializeToString(deterministic=True))
    return twin


def _flat(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with its local functions expanded, and without their domain."""
    flat = onnx.inliner.inline_local_functions(model) if model.functions else model
    standard = [opset for opset in flat.opset_import if opset.domain == ""]
    del flat.opset_import[:]
    flat.opset_import.extend(standard)
    return flat


def _load(file: Path, path: str, provider: str, native_op: Path | None = None) -> None:
    """Shows that ONNX Runtime loads a graph, without copying its weights: they stay mapped from the file.

    Packing and folding would each make a private copy, of a whole 7B if need be.
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
