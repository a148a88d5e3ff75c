"""Which providers of ONNX Runtime run a graph, and what may lie on the CPU beside a GPU.

Names and options are those of onnxruntime-gpu 1.31; docs/gpu.md says where each comes from.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from allrounder.engines.options import EngineOptions
from allrounder.errors import BackendError, EngineUnavailable
from allrounder.userdirs import cache_dir

__all__ = ["CPU", "TENSORRT", "asked_for", "check_placement", "check_provider", "providers_for", "unusable"]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_log = logging.getLogger("allrounder.runtime")
_BY_NAME = {"cuda": CUDA, "tensorrt": TENSORRT}
_REMEDIES = {
    CPU: "pip install onnxruntime",
    CUDA: "pip uninstall onnxruntime && pip install onnxruntime-gpu, or choose device='cpu'",
    TENSORRT: "pip uninstall onnxruntime && pip install onnxruntime-gpu, or choose provider='cuda'",
}
_UNUSABLE = {
    CUDA: "install the CUDA and cuDNN libraries that onnxruntime-gpu names, or choose device='cpu'",
    TENSORRT: "install the TensorRT and CUDA libraries that onnxruntime-gpu names (1.31: libnvinfer.so.10), "
    "or choose provider='cuda'",
}

# TensorRT's parser takes Attention without its lengths (`nonpad_kv_seqlen`), silently; its KV cache update wants a
# static number of slots; which of two ties its TopK takes is not documented, and the keep indices rests on it. Both
# branches of an If would be computed. Without TokenGather its body is what runs. The other three are ONNX Runtime's
# advice for TensorRT 10, which this option replaces.
_NOT_IN_TENSORRT = (
    *("Attention", "If", "TensorScatter", "TokenGather", "TopK"),
    *("NonMaxSuppression", "NonZero", "RoiAlign"),
)

# ONNX Runtime computes shapes and indices on the CPU on purpose, wherever all of a node's inputs lie there. In our
# graphs these operators do that. Some of them do other work as well, once per layer or more often: so few alone pass.
_OF_SHAPES = frozenset({"Add", "Concat", "Gather", "Shape", "Size", "Squeeze", "Sub", "Unsqueeze"})
_FEW = 16  # nodes of a graph; the most that was seen is 9, in the router


def asked_for(options: EngineOptions) -> str:
    """Returns the provider that does the work."""
    return CPU if options.device_kind == "cpu" else _BY_NAME[options.provider]


def providers_for(options: EngineOptions, graph: Path) -> list[tuple[str, dict[str, str]]]:
    """Returns the providers for a graph, best first, with their options.

    Raises:
        BackendError: The graph's file cannot be read.
    """
    if options.device_kind == "cpu":
        return [(CPU, {})]
    device = {"device_id": str(options.device_index)}
    # TF32 rounds the inputs of fp32 products to 11 bits: then a graph's precision would not be what it says.
    behind = [(CUDA, {**device, "use_tf32": "0"}), (CPU, {})]
    if options.provider == "cuda":
        return behind
    excluded = {"trt_op_types_to_exclude": ",".join(_NOT_IN_TENSORRT)}
    return [(TENSORRT, {**device, **excluded, **_caches(graph)}), *behind]


def _caches(graph: Path) -> dict[str, str]:
    """Makes and returns where TensorRT's engines of this graph are kept: they hold weights, so each graph has a folder.

    A graph names its weights' file, whose name holds their digest.
    """
    try:
        digest = hashlib.sha256(graph.read_bytes()).hexdigest()
    except OSError as error:
        raise BackendError("a graph cannot be read", where=graph, got=error) from error
    folder = _folder(digest)
    if folder is None:
        return {"trt_engine_cache_enable": "0", "trt_timing_cache_enable": "0"}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder.parent),
    }


def _folder(name: str) -> Path | None:
    user = cache_dir()
    problem = "there is no cache directory"
    if user is not None:
        folder = user / "onnxruntime-tensorrt" / name
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            problem = str(error)
        else:
            return folder
    _log.warning("TensorRT's engines cannot be kept (%s): they will be built at every start", problem)
    return None


def check_provider(options: EngineOptions, available: Sequence[str]) -> None:
    """Checks that ONNX Runtime was built with the provider.

    Raises:
        EngineUnavailable: It was not.
    """
    provider = asked_for(options)
    if provider not in available:
        raise EngineUnavailable(
            f"ONNX Runtime has no {provider}",
            where=options.device,
            got=", ".join(available),
            remedy=_REMEDIES[provider],
        )


def unusable(options: EngineOptions, got: object) -> EngineUnavailable:
    """Returns the error for a provider that is there and does not start."""
    return EngineUnavailable(
        f"ONNX Runtime could not use the {asked_for(options)}",
        where=options.device,
        got=got,
        remedy=_UNUSABLE.get(asked_for(options), _REMEDIES[CPU]),
    )


def check_placement(on_cpu: Mapping[str, int], graph: Path, options: EngineOptions) -> None:
    """Checks that nothing but shapes and indices is computed on the CPU in a session on a GPU.

    ``on_cpu`` says how many of the graph's nodes of each operator ONNX Runtime gave to the CPU.

    Raises:
        EngineUnavailable: Something else is.
    """
    strange = {name: count for name, count in on_cpu.items() if name not in _OF_SHAPES}
    if sum(on_cpu.values()) > _FEW:
        strange = strange or dict(on_cpu)
    if not strange:
        return
    raise EngineUnavailable(
        "ONNX Runtime would run a part of this graph on the CPU",
        where=f"{graph.name} on {options.device}",
        got=", ".join(f"{name} x {strange[name]}" for name in sorted(strange)),
        wanted=f"at most {_FEW} nodes, of {', '.join(sorted(_OF_SHAPES))}",
        remedy="install onnxruntime-gpu 1.31.1 or newer (TokenGather: build native/ with CUDA), or choose device='cpu'",
    )
