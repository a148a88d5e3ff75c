"""TensorRT and TensorRT-RTX: whether a library is here and new enough, whether a GPU is, and what it says of errors.

Builders and sessions of plans open the libraries here. Their Python packages (TensorRT 10.15 to 11, TensorRT-RTX) are
alike; TensorRT-RTX builds for several GPU architectures at once, none of which need be here.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any, NamedTuple

from allrounder.engines.tensorrt.gpus import Gpu, gpu
from allrounder.engines.tensorrt.plan_names import RTX, TENSORRT, Flavour, parse_version
from allrounder.errors import BackendError, EngineUnavailable
from allrounder.native import tensorrt_plugin
from allrounder.progress import Progress

__all__ = ["RTX_TARGETS", "Library", "imported", "monitor", "open_library"]

RTX_TARGETS = tuple(f"SM{sm}" for sm in RTX.architectures)  # as TensorRT-RTX names them

_log = logging.getLogger("allrounder.tensorrt")


class Library(NamedTuple):
    """An imported library."""

    flavour: Flavour
    module: Any
    version: tuple[int, ...]
    logger: Any
    errors: list[str]  # what the logger was given since the last failure: the library's calls return no reason
    gpu: Gpu | None = None  # the one to build for; None: plans are for `RTX_TARGETS`
    plugin: bool = False  # the gather op is registered

    @property
    def label(self) -> str:
        """Name and version, as errors quote them."""
        return f"{self.flavour.module} {'.'.join(map(str, self.version))}"

    def failure(self, what: str, where: object, remedy: str | None = None) -> BackendError:
        """Returns an error with what the library said since the last one."""
        said = "; ".join(self.errors) or "TensorRT gives no reason"
        self.errors.clear()
        return BackendError(what, where=where, got=f"{said} ({self.label})", remedy=remedy)

    def load_plugin(self, path: Path) -> None:
        """Registers the gather op.

        Raises:
            BackendError: The library refuses it.
        """
        if self.module.get_plugin_registry().load_library(str(path)) is None:
            major = f"{self.flavour.name} {self.version[0]}"
            remedy = (
                f"build it against {major} (native/README.md), or remove it and build plans, which are then without it"
            )
            raise self.failure("TensorRT cannot load the plugin of the gather op", path, remedy)


def imported(flavour: Flavour) -> Library:
    """Returns a library; no GPU is asked for.

    Raises:
        EngineUnavailable: Its package is missing, or too old.
    """
    try:
        module = importlib.import_module(flavour.module)
    except ImportError as error:
        raise EngineUnavailable(
            f"{flavour.name} cannot be imported",
            got=error,
            remedy=f"pip install {flavour.module} (or allrounder[{flavour.backend}])",
        ) from error
    errors: list[str] = []
    version = parse_version(module.__version__, flavour)
    return Library(flavour, module, version, _error_logger(module, errors), errors)


def open_library(flavour: Flavour = TENSORRT) -> Library:
    """Returns TensorRT for building, with the plugin of the gather op where that is installed; TensorRT-RTX takes none.

    Raises:
        EngineUnavailable: The package is missing or too old, or there is no GPU where one is needed.
        BackendError: TensorRT cannot load the plugin.
    """
    library = imported(flavour)
    if flavour == RTX:
        return library
    library, path = library._replace(gpu=gpu(0)), tensorrt_plugin()
    if path is None:
        _log.info("the gather op's TensorRT plugin is not installed: its own function is built into plans instead")
        return library
    library.load_plugin(path)
    return library._replace(plugin=True)


def _error_logger(module: Any, errors: list[str]) -> Any:
    """Returns a logger that adds errors to ``errors``."""

    class Logger(module.ILogger):
        def __init__(self) -> None:
            module.ILogger.__init__(self)  # pybind11 wants it called by name

        def log(self, severity: Any, msg: str) -> None:
            if severity in (module.ILogger.Severity.INTERNAL_ERROR, module.ILogger.Severity.ERROR):
                errors.append(msg)
            elif severity == module.ILogger.Severity.WARNING:
                _log.debug("%s", msg)

    return Logger()


def monitor(module: Any, what: str, progress: Progress) -> Any:
    """Returns TensorRT's progress monitor that reports the outermost phases of a build to ``progress``."""

    class Monitor(module.IProgressMonitor):
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None and num_steps > 0:
                self._steps[phase_name] = num_steps
                progress(f"{what}: {phase_name}", 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                # The last step is reported when the phase ends: a phase may be left early.
                progress(f"{what}: {phase_name}", min(step + 1, self._steps[phase_name] - 1), self._steps[phase_name])
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            if (steps := self._steps.pop(phase_name, None)) is not None:
                progress(f"{what}: {phase_name}", steps, steps)

    return Monitor()
