"""TensorRT or TensorRT-RTX, opened for running plans.

Images are prepared by ONNX Runtime on the CPU: that graph is no plan. Plans run on a GPU whatever `EngineOptions`
says: "cpu", its default, means the first one here. `EngineOptions.weights` changes nothing: an engine holds its own.
"""

from __future__ import annotations

import importlib
import mmap
from pathlib import Path
from typing import Any

from allrounder.engines.onnxruntime import session as onnxruntime_backend
from allrounder.engines.options import EngineOptions
from allrounder.engines.sessions import Session
from allrounder.engines.tensorrt.gpus import gpu
from allrounder.engines.tensorrt.library import imported
from allrounder.engines.tensorrt.plan_names import PLAN, Flavour, check_target
from allrounder.errors import BackendError
from allrounder.fingerprint import Machine, machine
from allrounder.native import require

__all__ = ["PlanLibrary"]


class PlanLibrary:
    """A `Backend` for plans of one library.

    Raises:
        EngineUnavailable: Its package, a GPU that it runs on or CUDA's Python bindings are missing, or it is too old.
    """

    def __init__(self, flavour: Flavour) -> None:
        self._library = imported(flavour)
        flavour.check_gpu(gpu(0).sm)  # where there is none, this backend is not there
        # CUDA's bindings, whose remedy comes last.
        self._cuda: Any = importlib.import_module("allrounder.engines.tensorrt.cuda")
        self._sessions: Any = importlib.import_module("allrounder.engines.tensorrt.plan_session")
        self._plugins: set[Path] = set()

    def fingerprint(self, options: EngineOptions) -> Machine:
        found = gpu(options.device_index)
        name = f"{self._library.flavour.backend} {'.'.join(map(str, self._library.version))}"
        return machine(backend=name, threads=options.thread_count, gpu=found.name, driver=found.driver)

    def open_session(self, path: Path, options: EngineOptions, *, native_op: bool = False) -> Session:
        del native_op  # a plan's name says whether it needs the plugin
        if path.suffix != PLAN:
            on_cpu = EngineOptions(threads=options.threads, weights=options.weights)
            return onnxruntime_backend.open_session(path, on_cpu)
        library, sm = self._library, gpu(options.device_index).sm
        target = check_target(path.name, version=library.version, sm=sm, flavour=library.flavour)
        if target.plugin and (plugin := require("tensorrt_plugin")) not in self._plugins:
            library.load_plugin(plugin)
            self._plugins.add(plugin)
        self._cuda.use_device(options.device_index)
        runtime = library.module.Runtime(library.logger)
        if target.newer:
            runtime.engine_host_code_allowed = True  # such a plan brings a part of its own TensorRT along
        engine = _deserialized(runtime, path)
        if engine is None:
            raise library.failure(f"{library.flavour.name} refuses a plan", path)
        return self._sessions.PlanSession(library, (runtime, engine), path.name, options.device_index)


def _deserialized(runtime: Any, path: Path) -> Any:
    """Returns the engine of a plan, or None; the plan is mapped, so that it takes no memory of this process."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return runtime.deserialize_cuda_engine(data)
    except (OSError, ValueError) as error:  # the latter of an empty file
        raise BackendError("a plan cannot be read", where=path, got=error) from error
