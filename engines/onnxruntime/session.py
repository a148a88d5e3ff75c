"""The ONNX Runtime backend: sessions, bindings and the machine's fingerprint."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from allrounder.engines.onnxruntime.providers import (
    CPU,
    TENSORRT,
    asked_for,
    check_placement,
    check_provider,
    providers_for,
    unusable,
)
from allrounder.engines.options import EngineOptions
from allrounder.engines.sessions import BFLOAT16, Bound, Cell, Session, Slots, Tensor
from allrounder.engines.slots import ArraySlots, OneSlot, require_one
from allrounder.errors import BackendError, EngineUnavailable
from allrounder.fingerprint import Machine, machine
from allrounder.native import ort_ops

__all__ = ["fingerprint", "open_session"]

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded: before the import below
try:
    import onnxruntime
except ImportError as error:
    raise EngineUnavailable(
        "ONNX Runtime cannot be imported", got=error, remedy="pip install onnxruntime (or allrounder[gpu] for CUDA)"
    ) from error

_log = logging.getLogger("allrounder.runtime")
# What caches are made of; bfloat16 zeros are zeros of any two bytes.
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(bfloat16)": BFLOAT16}
_BF16 = 16  # its number among ONNX's types
_NVIDIA = Path("/proc/driver/nvidia")


def fingerprint(options: EngineOptions) -> Machine:
    """See `allrounder.engines.sessions.Backend`."""
    check_provider(options, onnxruntime.get_available_providers())
    name = f"onnxruntime {onnxruntime.__version__}"
    if options.device_kind == "cpu":
        return machine(backend=name, threads=options.thread_count)
    if options.provider == "tensorrt":
        name += " tensorrt"  # another speed
    gpu, driver = _gpu(options.device_index)
    return machine(backend=name, threads=options.thread_count, gpu=gpu, driver=driver)


def open_session(path: Path, options: EngineOptions, *, native_op: bool = False) -> Session:
    """See `allrounder.engines.sessions.Backend`."""
    check_provider(options, onnxruntime.get_available_providers())
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.thread_count
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3  # errors; they are raised as well
    # Each session has threads of its own: one that waits by spinning takes the core from one that has work
    # (docs/decisions/0006-threads-do-not-spin.md has the figures).
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if options.weights == "shared":
        settings.add_session_config_entry("session.disable_prepacking", "1")
    if options.device_kind != "cpu":
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if native_op:
        _register_native_op(settings)
    session = _session(path, options, settings)
    if options.device_kind != "cpu":
        check_placement(_on_cpu(session), path, options)
    return _Session(session, path.name, options)


def _session(path: Path, options: EngineOptions, settings: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Makes a session on the provider that is asked for, and on no other in its place."""
    providers = providers_for(options, path)
    if asked_for(options) == TENSORRT:
        _log_once("TensorRT builds engines for a graph's first shapes, and again beyond them: that takes minutes")
        _log_once("TensorRT may round fp32 products to TF32; NVIDIA_TF32_OVERRIDE=0 in the environment forbids it")
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), settings, providers=providers, enable_fallback=0)
    except Exception as error:  # the library's errors have no root but Exception
        # What its binding itself throws is a RuntimeError: TensorRT's libraries are not there.
        if asked_for(options) == TENSORRT and isinstance(error, RuntimeError):
            raise unusable(options, error) from error
        raise BackendError("ONNX Runtime refuses a graph", where=path, got=error) from error
    if asked_for(options) not in session.get_providers():  # it leaves out by itself what does not start; we do not
        raise unusable(options, ", ".join(session.get_providers()))
    return session


def _on_cpu(session: onnxruntime.InferenceSession) -> Counter[str]:
    """Returns how many nodes of each operator lie on the CPU, those of branches included."""
    parts: Any = session.get_provider_graph_assignment_info()
    return Counter(node.op_type for part in parts if part.ep_name == CPU for node in part.get_nodes())


def _register_native_op(settings: onnxruntime.SessionOptions) -> None:
    """Lets the library's kernel take the place of the graph's own function, or says once that there is none."""
    library = ort_ops()
    if library is None:
        _log_once("the bundle asks for the native gather op, which is not installed: its own function runs instead")
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
    _log_once(f"the native gather op is taken from {library}")


@functools.cache
def _log_once(message: str) -> None:
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
        values = [(name, _value(feed)) for name, feed in feeds.items()]
        with _reported(self._name):
            for name, value in values:
                binding.bind_ortvalue_input(name, value)
            for name in self.outputs:
                binding.bind_output(name, *self._device)
        _run(self._session, binding, self._name)
        return dict(zip(self.outputs, binding.get_outputs(), strict=True))

    def bind(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Bound:
        return _Bound(self._session, self._name, inputs, outputs, self._device)

    def cell(self, values: np.ndarray) -> Cell:
        return _Cell(values)

    def zeros(self, name: str, shape: Sequence[int | None]) -> Tensor:
        return self._placed(self._zeros(name, shape))

    def slots(self, name: str, sequences: int, rows: int) -> Slots:
        block = self._zeros(name, (sequences, None, rows, None))
        if self._device[0] == "cpu":
            return ArraySlots(block, _value)
        require_one(sequences, self._name)
        return OneSlot(self._placed(block), self._name)

    def _zeros(self, name: str, shape: Sequence[int | None]) -> np.ndarray:
        described = next(tensor for tensor in self._session.get_inputs() if tensor.name == name)
        extents = [known if wanted is None else wanted for known, wanted in zip(described.shape, shape, strict=True)]
        return np.zeros(extents, _DTYPES[described.type])

    def _placed(self, array: np.ndarray) -> Any:
        return _value(array) if self._device[0] == "cpu" else _value(array, *self._device)


class _Bound:
    """A `Bound`; holds on to its tensors, as the library's binding may not.

    Binding an input copies it there and then, where the graph wants it on another device than it lies on. So what lies
    on the CPU, where cells are written, is bound again before each run.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        name: str,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
        device: tuple[str, int],
    ) -> None:
        self._session, self._name, self._tensors = session, name, (dict(inputs), dict(outputs))
        self._binding = session.io_binding()
        on_gpu = session.get_providers() != [CPU]
        self._again = [name for name, tensor in inputs.items() if on_gpu and tensor.device_name() == "cpu"]
        with _reported(name):
            for input_name, tensor in inputs.items():
                self._binding.bind_ortvalue_input(input_name, tensor)
            self._outputs = [tensor.name for tensor in session.get_outputs()]
            for output_name in self._outputs:
                if output_name in outputs:
                    self._binding.bind_ortvalue_output(output_name, outputs[output_name])
                else:
                    self._binding.bind_output(output_name, *device)

    def run(self) -> dict[str, Tensor]:
        with _reported(self._name):
            for name in self._again:
                self._binding.bind_ortvalue_input(name, self._tensors[0][name])
        _run(self._session, self._binding, self._name)
        found = zip(self._outputs, self._binding.get_outputs(), strict=True)
        return {name: value for name, value in found if name not in self._tensors[1]}


class _Cell:
    """A `Cell`: an array in CPU memory, whose own memory the library reads and writes."""

    def __init__(self, values: np.ndarray) -> None:
        self._array = np.array(values)
        self.tensor: Any = _value(self._array)

    def set(self, values: np.ndarray) -> None:
        self._array[...] = values

    def get(self) -> np.ndarray:
        return self._array.copy()


def _value(feed: Any, device: str = "cpu", index: int = 0) -> Any:
    """Returns a feed as the library's value, which shares an array's memory where that is on the same device."""
    if not isinstance(feed, np.ndarray):
        return feed
    array = np.ascontiguousarray(feed)
    if array.dtype == BFLOAT16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BF16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array, device, index)


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


def _gpu(index: int, folder: Path = _NVIDIA) -> tuple[str, str]:
    """Returns name of the GPU and version of its driver, as Linux's NVIDIA driver gives them; else empty."""
    try:
        facts = sorted(folder.glob("gpus/*/information"))[index].read_text(encoding="utf-8")
        version = (folder / "version").read_text(encoding="utf-8")
    except (OSError, IndexError):
        return f"cuda:{index}", ""
    name = re.search(r"^Model:\s*(.+?)\s*$", facts, re.MULTILINE)
    # "... x86_64 Kernel Module  550.54.14", or "... Open Kernel Module for x86_64  580.65.06": never the 86.
    driver = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", version)
    return name[1] if name else f"cuda:{index}", driver[1] if driver else ""
