"""The machine's fingerprint: on which machine a latency counts.

The same rules hold for Python and C++.

Rules: ``cpu`` is the first "model name" of /proc/cpuinfo, else the machine type (``uname -m``). ``cores`` is the number
of CPUs in the affinity mask, lowered to the cgroup's CPU quota (v2 ``cpu.max``, v1 ``cpu.cfs_quota_us``),
rounded down, at least 1. ``threads`` is what the engine uses. ``gpu`` and ``driver`` are empty without one.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Annotated

import msgspec

__all__ = ["Machine", "machine", "usable_cores"]

_Count = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]  # every reader, C++ too, can hold the number


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine as far as latency depends on it."""

    cpu: str
    cores: _Count
    threads: _Count
    backend: str  # for example "onnxruntime 1.31.1"
    gpu: str = ""
    driver: str = ""


def machine(*, backend: str, threads: int | None = None, gpu: str = "", driver: str = "") -> Machine:
    """Returns this machine's fingerprint for a backend that uses ``threads`` (default: all usable cores)."""
    cores = usable_cores()
    return Machine(cpu=_cpu_model(), cores=cores, threads=threads or cores, backend=backend, gpu=gpu, driver=driver)


def usable_cores() -> int:
    """Returns how many cores this process may use, after affinity and cgroup quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    available = len(affinity(0)) if affinity else (os.cpu_count() or 1)
    quota = _cgroup_quota()
    return max(1, min(available, int(quota))) if quota else max(1, available)


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    except OSError:
        pass  # no /proc: the machine type below is all there is
    return platform.machine()


def _cgroup_quota() -> float | None:
    """Returns the cgroup's CPU quota in cores, or None where there is none."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass  # not cgroup v2
    try:
        folder = Path("/sys/fs/cgroup/cpu")
        limit_us = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        return None if limit_us < 0 else limit_us / int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
    except (OSError, ValueError, ZeroDivisionError):
        return None  # not cgroup v1 either
