"""The ONNX Runtime backend.

What it is: sessions, bindings and the machine's fingerprint, on ONNX Runtime; the only file that imports it.
What it knows: providers, session options, memory. What it does not know: what the graphs compute.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from allrounder.errors import BackendError, EngineUnavailable
from allrounder.fingerprint import Machine, machine
from allrounder.native import ort_ops
from allrounder.runtime.backend import Bound, Cell, Session, Tensor
from allrounder.runtime.options import EngineOptions

__all__ = ["fingerprint", "open_session"]

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded: before the import below
try:
    import onnxruntime
except ImportError as error:
    raise EngineUnavailable(
        "ONNX Runtime cannot be imported", got=error, remedy="pip install onnxruntime (or allrounder[gpu] for CUDA)"
    ) from error

_log = logging.getLogger("allrounder.runtime")
_NVIDIA = Path("/proc/driver/nvidia")
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def fingerprint(options: EngineOptions) -> Machine:
    """See `allrounder.runtime.backend.Backend`."""
    _require_provider(options)
    name = f"onnxruntime {onnxruntime.__version__}"
    if options.device_kind == "cpu":
        return machine(backend=name, threads=options.thread_count)
    gpu, driver = _gpu(options.device_index)
    return machine(backend=name, threads=options.thread_count, gpu=gpu, driver=driver)


def open_session(path: Path, options: EngineOptions, *, native_op: bool = False) -> Session:
    """See `allrounder.runtime.backend.Backend`."""
    provider = _require_provider(options)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.thread_count
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3  # errors; they are raised as well
    # Each session has threads of its own: one that waits by spinning takes the core from one that has work
    # (docs/decisions/0006-threads-do-not-spin.md has the figures).
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if options.weights == "shared":
        settings.add_session_config_entry("session.disable_prepacking", "1")
    if native_op:
        _register_native_op(settings)
    providers: list[Any] = [provider]
    if options.device_kind == "cuda":
        providers = [(provider, {"device_id": str(options.device_index)}), _PROVIDERS["cpu"]]
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), settings, providers=providers)
    except Exception as error:  # the library's errors have no root but Exception
        raise BackendError("ONNX Runtime refuses a graph", where=path, got=error) from error
    if provider not in session.get_providers():  # it falls back to the CPU by itself; we do not
        raise EngineUnavailable(
            "ONNX Runtime could not use the device",
            where=options.device,
            got=", ".join(session.get_providers()),
            remedy="install the CUDA and cuDNN libraries that onnxruntime-gpu names, or choose device='cpu'",
        )
    return _Session(session, path.name, options)


def _register_native_op(settings: onnxruntime.SessionOptions) -> None:
    """Lets the library's kernel take the place of the graph's own function, or says once that there is none."""
    library = ort_ops()
    if library is None:
        _tell_once("the bundle asks for the native gather op, which is not installed: its own function runs instead")
        return
    try:
        settings.register_custom_ops_library(os.fspath(library))
    except Exception as error:  # the library's errors have no root but Exception
        raise BackendError(
            "ONNX Runtime refuses the native gather op",
            where=library,
            got=error,
            remedy="install allrounder again, or remove that file: the same bundle runs without it",
        ) from error
    _tell_once(f"the native gather op is taken from {library}")


@functools.cache
def _tell_once(message: str) -> None:
    _log.info(message)


class _Session:
    """A `Session`."""

    def __init__(self, session: onnxruntime.InferenceSession, name: str, options: EngineOptions) -> None:
        self._session, self._name = session, name
        self._device = (options.device_kind, options.device_index)
        self.inputs = tuple(tensor.name for tensor in session.get_inputs())
        self.outputs = tuple(tensor.name for tensor in session.get_outputs())

    def run(self, feeds: Mapping[str, Tensor | np.ndarray]) -> dict[str, Tensor]:
        binding = self._session.io_binding()
        values = [(name, _value(feed, ("cpu", 0))) for name, feed in feeds.items()]
        with _reported(self._name):
            for name, value in values:
                binding.bind_ortvalue_input(name, value)
            for name in self.outputs:
                binding.bind_output(name, *self._device)
        _run(self._session, binding, self._name)
        return dict(zip(self.outputs, binding.get_outputs(), strict=True))

    def bind(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Bound:
        return _Bound(self._session, self._name, inputs, outputs)

    def cell(self, values: np.ndarray) -> Cell:
        return _Cell(values, self._device)


class _Bound:
    """A `Bound`; holds on to its tensors, as the library's binding may not."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        name: str,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
    ) -> None:
        self._session, self._name, self._tensors = session, name, (dict(inputs), dict(outputs))
        self._binding = session.io_binding()
        with _reported(name):
            for input_name, tensor in inputs.items():
                self._binding.bind_ortvalue_input(input_name, tensor)
            for output_name, tensor in outputs.items():
                self._binding.bind_ortvalue_output(output_name, tensor)

    def run(self) -> None:
        _run(self._session, self._binding, self._name)


class _Cell:
    """A `Cell`; on the CPU the library reads the array's own memory."""

    def __init__(self, values: np.ndarray, device: tuple[str, int]) -> None:
        self._array = np.array(values)
        self._on_cpu = device[0] == "cpu"
        self.tensor: Any = _value(self._array, device)

    def set(self, values: np.ndarray) -> None:
        self._array[...] = values
        if not self._on_cpu:
            self.tensor.update_inplace(self._array)

    def get(self) -> np.ndarray:
        return self._array.copy() if self._on_cpu else self.tensor.numpy()


def _value(feed: Any, device: tuple[str, int]) -> onnxruntime.OrtValue:
    if isinstance(feed, np.ndarray):
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(feed), *device)
    return feed


def _run(session: onnxruntime.InferenceSession, binding: onnxruntime.IOBinding, name: str) -> None:
    with _reported(name):
        session.run_with_iobinding(binding)


@contextmanager
def _reported(name: str) -> Iterator[None]:
    """Turns what the library says of a graph into our error."""
    try:
        yield
    except Exception as error:  # the library's errors have no root but Exception
        raise BackendError("ONNX Runtime failed", where=name, got=error) from error


def _require_provider(options: EngineOptions) -> str:
    provider, available = _PROVIDERS[options.device_kind], onnxruntime.get_available_providers()
    if provider not in available:
        raise EngineUnavailable(
            f"ONNX Runtime has no {provider}",
            where=options.device,
            got=", ".join(available),
            remedy="pip uninstall onnxruntime && pip install onnxruntime-gpu, or choose device='cpu'",
        )
    return provider


def _gpu(index: int, folder: Path = _NVIDIA) -> tuple[str, str]:
    """Returns name of the GPU and version of its driver, as Linux's NVIDIA driver tells them; else empty."""
    try:
        facts = sorted(folder.glob("gpus/*/information"))[index].read_text(encoding="utf-8")
        version = (folder / "version").read_text(encoding="utf-8")
    except (OSError, IndexError):
        return f"cuda:{index}", ""
    name = re.search(r"^Model:\s*(.+?)\s*$", facts, re.MULTILINE)
    # "... x86_64 Kernel Module  550.54.14", or "... Open Kernel Module for x86_64  580.65.06": never the 86.
    driver = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", version)
    return name[1] if name else f"cuda:{index}", driver[1] if driver else ""
