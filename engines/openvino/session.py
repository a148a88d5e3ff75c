"""The OpenVINO backend: sessions, bindings and the machine's fingerprint, on OpenVINO's CPU plugin.

It reads flat graphs (`allrounder.engines.graphs.flat`). Other devices of OpenVINO were never tried.
`EngineOptions.weights` changes nothing here: OpenVINO maps the weights file and packs for each engine what it wants. A
compiled model may be run by one thread per infer request, so each run and each binding has a request of its own.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allrounder.engines.options import EngineOptions
from allrounder.engines.process import inherited
from allrounder.engines.sessions import BFLOAT16, Bound, Cell, Session, Slots, Tensor
from allrounder.engines.slots import ArraySlots
from allrounder.errors import BackendError, EngineUnavailable
from allrounder.fingerprint import Machine, machine

__all__ = ["fingerprint", "open_session"]

try:
    import openvino
except ImportError as error:
    raise EngineUnavailable(
        "OpenVINO cannot be imported", got=error, remedy="pip install openvino (or allrounder[openvino])"
    ) from error
# Its binding loads numpy's types when it first wants one; two threads that do so at once never come back.
openvino.Type.f32.to_dtype()


def fingerprint(options: EngineOptions) -> Machine:
    """See `allrounder.engines.sessions.Backend`."""
    _require_cpu(options)
    return machine(backend=f"openvino {openvino.__version__.partition('-')[0]}", threads=options.thread_count)


def open_session(path: Path, options: EngineOptions, *, native_op: bool = False) -> Session:
    """See `allrounder.engines.sessions.Backend`."""
    del native_op  # flat graphs hold standard ops alone
    _require_cpu(options)
    _require_threads()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(options.thread_count),
        # On some processors the default is bfloat16; what the manifest promises was measured in float32.
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": "NO",  # several engines live in one process
    }
    try:
        core = openvino.Core()
        model = core.read_model(path)
        # Compiling folds ops away, and the port that is left has the names of both: here each has the graph's alone.
        names = [tuple(port.any_name for port in ports) for ports in (model.inputs, model.outputs)]
        compiled = core.compile_model(model, "CPU", settings)
    except Exception as error:  # the library's errors have no root but Exception
        # It reads no weights behind links, as bundles in the hub's cache have them.
        remedy = (
            "copy the bundle with its files in place of links: cp -rL BUNDLE DIRECTORY" if path.is_symlink() else None
        )
        raise BackendError("OpenVINO refuses a graph", where=path, got=error, remedy=remedy) from error
    return _Session(compiled, path.name, *names)


class _Tensor:
    """A `Tensor`: an array that is read and written in place."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def numpy(self) -> np.ndarray:
        return self.array

    def shape(self) -> list[int]:
        return list(self.array.shape)


class _Cell:
    """A `Cell`."""

    def __init__(self, values: np.ndarray) -> None:
        self.tensor: Any = _Tensor(np.array(values))

    def set(self, values: np.ndarray) -> None:
        self.tensor.array[...] = values

    def get(self) -> np.ndarray:
        return self.tensor.array.copy()


class _Session:
    """A `Session`."""

    def __init__(self, compiled: Any, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        self._compiled, self.name, self.inputs, self.outputs = compiled, name, inputs, outputs
        self._opaque = {index for index, port in enumerate(compiled.outputs) if port.element_type == openvino.Type.bf16}

    def run(self, feeds: Mapping[str, Tensor | np.ndarray]) -> dict[str, Tensor]:
        request = self._compiled.create_infer_request()
        results = _infer(request, {name: _given(_array(feed)) for name, feed in feeds.items()}, self.name)
        # The request dies with this call, so its outputs are copied out of it.
        return {name: _Tensor(np.array(self.output(results, index))) for index, name in enumerate(self.outputs)}

    def bind(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Bound:
        return _Bound(self, inputs, outputs)

    def cell(self, values: np.ndarray) -> Cell:
        return _Cell(values)

    def zeros(self, name: str, shape: Sequence[int | None]) -> Tensor:
        port = self._compiled.inputs[self.inputs.index(name)]
        known = [None if extent.is_dynamic else extent.get_length() for extent in port.get_partial_shape()]
        extents: Any = [there if wanted is None else wanted for there, wanted in zip(known, shape, strict=True)]
        dtype = BFLOAT16 if port.element_type == openvino.Type.bf16 else port.element_type.to_dtype()
        return _Tensor(np.zeros(extents, dtype))

    def slots(self, name: str, sequences: int, rows: int) -> Slots:
        return ArraySlots(self.zeros(name, (sequences, None, rows, None)).numpy(), _Tensor)

    def request(self) -> Any:
        return self._compiled.create_infer_request()

    def output(self, results: Any, index: int) -> np.ndarray:
        """Returns an output where it lies; OpenVINO calls bfloat16 float16, which it is not."""
        return results[index].view(BFLOAT16) if index in self._opaque else results[index]


class _Bound:
    """A `Bound`: results are copied to where they were tied, which may be where an input is read from."""

    def __init__(self, session: _Session, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        self._request, self._session = session.request(), session
        self._inputs = {name: _given(_array(tensor)) for name, tensor in inputs.items()}
        self._outputs = {name: _array(tensor) for name, tensor in outputs.items()}

    def run(self) -> dict[str, Tensor]:
        results, free = _infer(self._request, self._inputs, self._session.name), {}
        for index, name in enumerate(self._session.outputs):
            found, target = self._session.output(results, index), self._outputs.get(name)
            if target is None:
                free[name] = _Tensor(np.array(found))
            elif target.shape != found.shape:
                got, wanted = list(found.shape), list(target.shape)
                where = f"{self._session.name}: {name}"
                raise BackendError("OpenVINO gave another shape", where=where, got=got, wanted=wanted)
            elif target.size:
                target[...] = found
        return free


def _infer(request: Any, feeds: Mapping[str, Any], name: str) -> Any:
    try:
        return request.infer(dict(feeds), share_inputs=True, share_outputs=True)
    except Exception as error:  # the library's errors have no root but Exception
        raise BackendError("OpenVINO failed", where=name, got=error) from error


def _array(feed: Tensor | np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(feed) if isinstance(feed, np.ndarray) else feed.numpy()


def _given(array: np.ndarray) -> Any:
    """Returns what OpenVINO takes for an array: itself, or for bfloat16 a tensor in the array's own memory."""
    if array.dtype != BFLOAT16:
        return array
    return openvino.Tensor(array.view(np.uint16), list(array.shape), openvino.Type.bf16)


def _require_cpu(options: EngineOptions) -> None:
    if options.device_kind != "cpu":
        raise EngineUnavailable("OpenVINO engines run on the CPU", where="device", got=options.device, wanted="cpu")


def _require_threads() -> None:
    if inherited(_process()):
        raise EngineUnavailable(
            "OpenVINO's threads did not come along when this process was forked",  # it would end the process
            got=f"its first engine was opened in process {_process()}, this is process {os.getpid()}",
            remedy="start this process before an engine is opened, or start it by spawn",
        )


@functools.cache
def _process() -> int:
    """Returns the process in which OpenVINO started its threads, which is where this is asked first."""
    return os.getpid()
