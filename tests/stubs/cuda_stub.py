"""A stand-in for `cuda.bindings.runtime` (cuda-bindings 13.5), as far as we call it, in CPU memory.

Every function returns a tuple that begins with a status, as there. Memory that is written after it was freed, a copy
that is not waited for, and work that is launched into a stream that ended are errors of the test.
"""

# ruff: noqa: N801, N802, N803, N815 - CUDA's names

import ctypes
import enum
import itertools
from types import ModuleType


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorStreamCaptureUnsupported = 900


OK = (cudaError_t.cudaSuccess,)


def make(streams):
    """Returns a module that passes for `cuda.bindings.runtime`; ``streams.capturing`` is shared with TensorRT's."""
    cuda = ModuleType("cuda.bindings.runtime")
    blocks, handles, alive, graphs = {}, itertools.count(1001), set(), {}
    cuda.blocks, cuda.launches, cuda.refuses_capture, cuda.devices = blocks, [], False, []
    cuda.cudaStreamNonBlocking = 1
    cuda.cudaMemcpyKind = enum.Enum("cudaMemcpyKind", ["cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"])
    cuda.cudaStreamCaptureMode = enum.Enum("cudaStreamCaptureMode", ["cudaStreamCaptureModeThreadLocal"])

    def cudaSetDevice(device):
        cuda.devices.append(device)
        return OK

    def cudaMalloc(size):
        assert size > 0
        block = (ctypes.c_char * size)()
        blocks[ctypes.addressof(block)] = block
        return (*OK, ctypes.addressof(block))

    def cudaFree(devPtr):
        del blocks[devPtr]
        return OK

    def cudaStreamCreateWithFlags(flags):
        assert flags == cuda.cudaStreamNonBlocking
        handle = next(handles)
        alive.add(handle)
        return (*OK, handle)

    def cudaStreamDestroy(stream):
        alive.remove(stream)
        return OK

    def cudaStreamSynchronize(stream):
        assert stream in alive
        assert stream not in streams.capturing
        return OK

    def cudaMemcpyAsync(dst, src, count, kind, stream):
        assert stream in alive
        assert stream not in streams.capturing
        device = dst if kind == cuda.cudaMemcpyKind.cudaMemcpyHostToDevice else src
        assert count <= len(blocks[device])
        ctypes.memmove(dst, src, count)
        return OK

    def cudaStreamBeginCapture(stream, mode):
        streams.capturing[stream] = []
        return OK

    def cudaStreamEndCapture(stream):
        work = streams.capturing.pop(stream)
        if cuda.refuses_capture:
            return (cudaError_t.cudaErrorStreamCaptureUnsupported, None)
        handle = next(handles)
        graphs[handle] = work
        return (*OK, handle)

    def cudaGraphInstantiate(graph, flags):
        handle = next(handles)
        graphs[handle] = graphs[graph]
        return (*OK, handle)

    def cudaGraphLaunch(graphExec, stream):
        assert stream in alive
        cuda.launches.append(graphExec)
        assert graphs[graphExec]
        done = [work() for work in graphs[graphExec]]
        return OK if all(done) else (cudaError_t.cudaErrorInvalidValue,)

    def forget(graph):
        del graphs[graph]
        return OK

    cuda.cudaGraphDestroy = cuda.cudaGraphExecDestroy = forget
    for function in (
        cudaSetDevice, cudaMalloc, cudaFree, cudaStreamCreateWithFlags, cudaStreamDestroy, cudaStreamSynchronize,
        cudaMemcpyAsync, cudaStreamBeginCapture, cudaStreamEndCapture, cudaGraphInstantiate, cudaGraphLaunch,
    ):  # fmt: skip
        setattr(cuda, function.__name__, function)
    return cuda
