"""TensorRT itself: is it here, is it new enough, is there a GPU, and what has it to say.

What it is: one function that opens the library or refuses with the remedy, TensorRT's log and its progress as ours.
What it knows: the Python packages of TensorRT 10.15 to 11 and of TensorRT-RTX, which are alike; that the latter builds
for several GPU architectures at once, none of which need be here.
What it does not know: graphs and plans.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from allrounder.engines.tensorrt.gpus import Gpu, gpu
from allrounder.engines.tensorrt.plan_names import RTX, TENSORRT, Flavour, parse_version
from allrounder.engines.tensorrt.releases import error_logger, imported
from allrounder.errors import BackendError
from allrounder.native import tensorrt_plugin
from allrounder.progress import Progress

__all__ = ["RTX_TARGETS", "Library", "Log", "monitor", "open_library"]

RTX_TARGETS = tuple(f"SM{sm}" for sm in RTX.architectures)  # as TensorRT-RTX names them

_log = logging.getLogger("allrounder.engines")


class Log(NamedTuple):
    """TensorRT's logger, and the errors that it was told; TensorRT's calls return no reason themselves."""

    logger: Any
    errors: list[str]

    def failure(self, what: str, *, where: object, version: str) -> BackendError:
        """Returns an error with what TensorRT said since the last one."""
        said = "; ".join(self.errors) or "TensorRT gives no reason"
        self.errors.clear()
        return BackendError(what, where=where, got=f"{said} ({version})")


class Library(NamedTuple):
    """TensorRT, opened for building."""

    flavour: Flavour
    module: Any
    version: tuple[int, ...]
    gpu: Gpu | None  # None: plans are for `RTX_TARGETS`, and no GPU is asked
    log: Log
    plugin: bool  # the gather op is registered

    @property
    def label(self) -> str:
        """Name and version, as errors quote them."""
        return f"{self.flavour.module} {'.'.join(map(str, self.version))}"


def open_library(flavour: Flavour = TENSORRT) -> Library:
    """Returns TensorRT with the plugin of the gather op, where that is installed; TensorRT-RTX takes none.

    Raises:
        EngineUnavailable: The package is missing or too old, or there is no GPU where one is needed.
        BackendError: TensorRT cannot load the plugin.
    """
    module = imported(flavour)
    version = parse_version(module.__version__, flavour)
    errors: list[str] = []
    log = Log(error_logger(module, errors), errors)
    if flavour == RTX:
        return Library(flavour, module, version, None, log, plugin=False)
    return Library(flavour, module, version, gpu(0), log, _load_plugin(module, version, log))


def _load_plugin(module: Any, version: tuple[int, ...], log: Log) -> bool:
    path = tensorrt_plugin()
    if path is None:
        _log.info("the gather op's TensorRT plugin is not installed: its own function is built into plans instead")
        return False
    if module.get_plugin_registry().load_library(str(path)) is None:
        error = log.failure(
            "TensorRT cannot load the plugin of the gather op", where=path, version=f"tensorrt {version[0]}"
        )
        remedy = f"build it against TensorRT {version[0]} (native/README.md), or remove it: plans are built without it"
        raise BackendError(error.what, where=path, got=error.got, remedy=remedy)
    return True


def monitor(module: Any, what: str, progress: Progress) -> Any:
    """Returns TensorRT's progress monitor that tells ``progress`` the outermost phases of a build."""

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
                # The last step is told when the phase ends: a phase may be left early.
                progress(f"{what}: {phase_name}", min(step + 1, self._steps[phase_name] - 1), self._steps[phase_name])
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            if (steps := self._steps.pop(phase_name, None)) is not None:
                progress(f"{what}: {phase_name}", steps, steps)

    return Monitor()
