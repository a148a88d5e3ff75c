"""CUDA as the TensorRT backend needs it: memory, streams and captured graphs.

These are a few calls of `cuda.bindings.runtime` (the package cuda-python), whose results are checked. Memory is freed
and streams end with the objects that hold them. Streams are of the kind that does not wait for CUDA's default stream,
so that one thread may capture while others copy; whatever crosses between CPU and device is therefore waited for on the
stream that carried it.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from allrounder.errors import BackendError, EngineUnavailable

__all__ = ["Graph", "Memory", "Stream", "use_device"]

try:
    _cuda: Any = importlib.import_module("cuda.bindings.runtime")
except ImportError as error:
    raise EngineUnavailable(
        "CUDA's Python bindings cannot be imported",
        got=error,
        remedy="pip install cuda-python (or allrounder[tensorrt])",
    ) from error


def use_device(index: int) -> None:
    """Makes a GPU the one that this thread's calls mean."""
    _checked(_cuda.cudaSetDevice(index))


class Memory:
    """Bytes on the GPU; freed with this object."""

    def __init__(self, size: int) -> None:
        self.address = int(_checked(_cuda.cudaMalloc(max(size, 1))))  # an address even where there is nothing
        weakref.finalize(self, _cuda.cudaFree, self.address)


class Graph:
    """Work that was captured, and is launched as one; its memory and contexts are the caller's to keep."""

    def __init__(self, captured: Any) -> None:
        try:
            self._executable = _checked(_cuda.cudaGraphInstantiate(captured, 0))
        finally:
            _cuda.cudaGraphDestroy(captured)
        weakref.finalize(self, _cuda.cudaGraphExecDestroy, self._executable)

    def launch(self, stream: Stream) -> None:
        _checked(_cuda.cudaGraphLaunch(self._executable, stream.handle))


class Stream:
    """A queue of work."""

    def __init__(self) -> None:
        self.handle = int(_checked(_cuda.cudaStreamCreateWithFlags(_cuda.cudaStreamNonBlocking)))
        weakref.finalize(self, _cuda.cudaStreamDestroy, self.handle)

    def wait(self) -> None:
        """Returns when everything in the queue is done."""
        _checked(_cuda.cudaStreamSynchronize(self.handle))

    def write(self, address: int, values: np.ndarray) -> None:
        """Copies a dense array to the GPU."""
        self._copy(address, values.ctypes.data, values.nbytes, _cuda.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def read(self, values: np.ndarray, address: int) -> None:
        """Fills a dense array from the GPU."""
        self._copy(values.ctypes.data, address, values.nbytes, _cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """Returns what ``enqueue`` puts into this stream, which is not done by that.

        Raises:
            BackendError: It is nothing that can be captured.
        """
        _checked(
            _cuda.cudaStreamBeginCapture(self.handle, _cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        )
        try:
            enqueue()
        except BaseException:
            _cuda.cudaStreamEndCapture(self.handle)  # the stream is of no use before
            raise
        return Graph(_checked(_cuda.cudaStreamEndCapture(self.handle)))

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        if size:
            _checked(_cuda.cudaMemcpyAsync(target, source, size, kind, self.handle))
            self.wait()


def _checked(result: tuple[Any, ...]) -> Any:
    """Returns what a call gave besides its status."""
    status, *values = result
    if int(status) != 0:
        raise BackendError("CUDA failed", got=getattr(status, "name", status))
    return values[0] if values else None
