"""Which NVIDIA GPUs this machine has: names and architectures, asked of the driver's own library (`libcuda`)."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

from allrounder.errors import EngineUnavailable

__all__ = ["Gpu", "gpu", "gpus"]

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


class Gpu(NamedTuple):
    """One GPU."""

    name: str
    sm: int  # compute capability, 90 for 9.0
    driver: str  # the newest CUDA that its driver runs, "CUDA 13.0"


def gpu(index: int) -> Gpu:
    """Returns one GPU.

    Raises:
        EngineUnavailable: There is no such GPU, or no driver.
    """
    found = gpus()
    if index >= len(found):
        raise EngineUnavailable(
            "there is no such GPU here",
            where=f"cuda:{index}",
            got=", ".join(each.name for each in found) or "no NVIDIA GPU, or no driver",
            remedy="run on a machine with an NVIDIA GPU and its driver (nvidia-smi shows both)",
        )
    return found[index]


def gpus() -> tuple[Gpu, ...]:
    """Returns the GPUs that this process may use, in CUDA's order; none without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count, version = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    driver.cuDriverGetVersion(ctypes.byref(version))
    cuda = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    return tuple(_gpu(driver, index, cuda) for index in range(count.value))


def _gpu(driver: ctypes.CDLL, index: int, cuda: str) -> Gpu:
    device, number, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    parts: list[int] = []
    for attribute in (_MAJOR, _MINOR):
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        parts.append(number.value)
    return Gpu(name.value.decode(errors="replace"), parts[0] * 10 + parts[1], cuda)
