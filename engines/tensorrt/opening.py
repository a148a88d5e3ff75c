"""TensorRT or TensorRT-RTX, opened for running plans.

What it is: the `Backend` of either library, checked when it is made: package, version, GPU, CUDA's bindings.
What it knows: how plans are read, the plugin that some need, the library's words when it fails.
What it does not know: contexts and memory (`allrounder.engines.tensorrt.plan_session`).

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
from allrounder.engines.tensorrt.plan_names import PLAN, Flavour, check_target, parse_version
from allrounder.engines.tensorrt.releases import error_logger, imported
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
        self.module: Any = imported(flavour)
        self._flavour, self._version = flavour, parse_version(self.module.__version__, flavour)
        flavour.check_gpu(gpu(0).sm)  # where there is none, this backend is not there
        # CUDA's bindings, whose remedy comes last.
        self._cuda: Any = importlib.import_module("allrounder.engines.tensorrt.cuda")
        self._sessions: Any = importlib.import_module("allrounder.engines.tensorrt.plan_session")
        self._errors: list[str] = []
        self._logger = error_logger(self.module, self._errors)
        self._plugins: set[Path] = set()

    def fingerprint(self, options: EngineOptions) -> Machine:
        """See `allrounder.engines.sessions.Backend`."""
        found = gpu(options.device_index)
        name = f"{self._flavour.backend} {'.'.join(map(str, self._version))}"
        return machine(backend=name, threads=options.thread_count, gpu=found.name, driver=found.driver)

    def open_session(self, path: Path, options: EngineOptions, *, native_op: bool = False) -> Session:
        """See `allrounder.engines.sessions.Backend`."""
        del native_op  # a plan's name says whether it needs the plugin
        if path.suffix != PLAN:
            on_cpu = EngineOptions(threads=options.threads, weights=options.weights)
            return onnxruntime_backend.open_session(path, on_cpu)
        sm = gpu(options.device_index).sm
        target = check_target(path.name, version=self._version, sm=sm, flavour=self._flavour)
        if target.plugin:
            self._load_plugin(require("tensorrt_plugin"))
        self._cuda.use_device(options.device_index)
        runtime = self.module.Runtime(self._logger)
        if target.newer:
            runtime.engine_host_code_allowed = True  # such a plan brings a part of its own TensorRT along
        engine = _deserialized(runtime, path)
        if engine is None:
            raise self.failure(f"{self._flavour.name} refuses a plan", path)
        return self._sessions.PlanSession(self, (runtime, engine), path.name, options.device_index)

    def failure(self, what: str, where: object) -> BackendError:
        """Returns an error with what the library said since the last one."""
        said = "; ".join(self._errors) or "TensorRT gives no reason"
        self._errors.clear()
        return BackendError(what, where=where, got=f"{said} ({self._flavour.module} {self.module.__version__})")

    def _load_plugin(self, path: Path) -> None:
        if path in self._plugins:
            return
        if self.module.get_plugin_registry().load_library(str(path)) is None:
            raise self.failure("TensorRT cannot load the plugin of the gather op", path)
        self._plugins.add(path)


def _deserialized(runtime: Any, path: Path) -> Any:
    """Returns the engine of a plan, or None; the plan is mapped, so that it takes no memory of this process."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return runtime.deserialize_cuda_engine(data)
    except (OSError, ValueError) as error:  # the latter of an empty file
        raise BackendError("a plan cannot be read", where=path, got=error) from error
