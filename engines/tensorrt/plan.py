"""Building one TensorRT plan from one graph: network, profiles, configuration, and the timing cache that builds share.

Networks are strongly typed: the precision is that of the graph, which TensorRT 11 always does and 10 needs a flag for.
TF32 is off, so that fp32 means fp32. Which kernels are fast on this GPU takes longest to find out; it is kept per user,
GPU and version, and without a writable home it is found out each time.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from allrounder.engines.tensorrt.form import dynamic_inputs
from allrounder.engines.tensorrt.library import RTX_TARGETS, Library, monitor
from allrounder.engines.tensorrt.plan_names import TENSORRT, Hardware, PlanTarget
from allrounder.engines.tensorrt.profiles import Profile
from allrounder.errors import BackendError, InputInvalid
from allrounder.progress import Progress
from allrounder.userdirs import cache_dir, write_whole

__all__ = ["PlanOptions", "Source", "build_plan", "target"]

Write = Callable[[bytes], int]  # takes the next bytes, returns how many it took
_ALWAYS_TYPED = 11  # from this major version on a network can be nothing but strongly typed


class PlanOptions(NamedTuple):
    """What may be chosen about plans; the defaults give the fastest ones, for this TensorRT and this GPU."""

    newer: bool = False  # newer minor versions of this TensorRT run them too; somewhat slower
    hardware: Hardware = "same"  # "ampere": any GPU from Ampere on; slower, as kernels are chosen for all of them
    effort: int = 3  # TensorRT's optimisation level, 0 to 5
    workspace: int | None = None  # bytes that a kernel may use while it runs; None is what the GPU has


class Source(NamedTuple):
    """What a plan is built from."""

    model: onnx.ModelProto  # in the parser's form
    path: Path  # of the graph that it was made from: weights lie relative to it
    profiles: Sequence[Profile]  # where the model has an open extent


def target(library: Library, options: PlanOptions, *, plugin: bool) -> PlanTarget:
    """Returns what plans built with ``options`` run on.

    Raises:
        InputInvalid: Options for TensorRT-RTX.
    """
    if library.gpu is None:
        if options != PlanOptions():
            raise InputInvalid(
                "plans that are made for many GPUs at once have no options",
                where=library.flavour.backend,
                got=options,
                remedy="leave them out, or build with --backend tensorrt",
            )
        return PlanTarget(library.version, min(library.flavour.architectures), hardware="ampere")
    return PlanTarget(library.version, library.gpu.sm, options.newer, options.hardware, plugin)


def build_plan(library: Library, source: Source, options: PlanOptions, write: Write, progress: Progress) -> None:
    """Builds a plan, which is handed to ``write`` piece by piece: it is never in our memory as a whole.

    Raises:
        BackendError: TensorRT refuses the graph, or fails; its message is quoted.
        BundleError: Whatever ``write`` raises.
    """
    trt = library.module
    library.errors.clear()
    builder = trt.Builder(library.logger)
    flags = 0
    if library.flavour == TENSORRT and library.version[0] < _ALWAYS_TYPED:
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    _parse(library, network, source)
    config = _config(library, builder, options)
    _add_profiles(builder, config, source)
    config.progress_monitor = monitor(trt, source.path.name, progress)
    cache_file = _timing_file(library)
    cache = config.create_timing_cache(_read(cache_file)) if library.gpu else None
    if cache is not None:
        config.set_timing_cache(cache, ignore_mismatch=False)
    writer = _writer(trt, write)
    done = builder.build_serialized_network_to_stream(network, config, writer)
    if writer.error is not None:
        raise writer.error
    if not done:
        raise library.failure("TensorRT cannot build a plan", source.path.name)
    if cache_file and cache is not None:
        _write(cache_file, bytes(config.get_timing_cache().serialize()))


def _writer(module: Any, write: Write) -> Any:
    """Returns TensorRT's stream writer that hands on to ``write``."""

    class Writer(module.IStreamWriter):
        def __init__(self) -> None:
            module.IStreamWriter.__init__(self)  # pybind11 wants it called by name
            self.error: BaseException | None = None

        def write(self, data: bytes) -> int:
            try:
                return write(data)
            except BaseException as error:  # noqa: BLE001 - the bindings would print it, and lose it
                self.error = error
                return 0  # TensorRT gives up

    return Writer()


def _parse(library: Library, network: Any, source: Source) -> None:
    parser = library.module.OnnxParser(network, library.logger)
    data = source.model.SerializeToString(deterministic=True)
    if parser.parse(data, path=str(source.path)):
        return
    said = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
    raise BackendError(
        "TensorRT's ONNX parser refuses a graph",
        where=source.path.name,
        got=f"{said} ({library.label})",
    )


def _config(library: Library, builder: Any, options: PlanOptions) -> Any:
    trt, config = library.module, builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if library.gpu is None:
        config.num_compute_capabilities = len(RTX_TARGETS)
        for index, name in enumerate(RTX_TARGETS):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
        return config
    config.builder_optimization_level = options.effort
    if options.newer:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware == "ampere":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    return config


def _add_profiles(builder: Any, config: Any, source: Source) -> None:
    inputs: Mapping[str, list[int | str]] = dynamic_inputs(source.model)
    for spans in source.profiles if inputs else ():
        profile = builder.create_optimization_profile()
        for name, shape in inputs.items():
            least, usual, most = (
                tuple(extent if isinstance(extent, int) else spans[extent][size] for extent in shape)
                for size in range(3)
            )
            profile.set_shape(name, min=least, opt=usual, max=most)
        if config.add_optimization_profile(profile) < 0:
            raise BackendError("TensorRT refuses a profile", where=source.path.name, got=spans)


def _timing_file(library: Library) -> Path | None:
    folder = cache_dir()
    if library.gpu is None:
        return None  # nothing is timed
    name = re.sub(r"[^A-Za-z0-9]+", "-", library.gpu.name).strip("-")
    version = ".".join(map(str, library.version))
    return folder and folder / "tensorrt" / f"timing-{version}-sm{library.gpu.sm}-{name}.bin"


def _read(file: Path | None) -> bytes:
    try:
        return file.read_bytes() if file else b""
    except OSError:
        return b""  # a cache may always be absent


def _write(file: Path, data: bytes) -> None:
    with contextlib.suppress(OSError):  # the next build times its kernels again
        write_whole(file, data)
