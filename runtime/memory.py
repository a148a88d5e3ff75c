"""Memory: do engines fit side by side, before the system finds out.

Measured with ONNX Runtime 1.31.1: ``weights="fast"`` packs the weights once; ``"shared"`` maps them, which the system
may drop again; fp16 on a CPU is turned into fp32, in either mode, which makes twice its size. bf16, which OpenVINO
alone runs there, counts alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from allrounder.engines.bundle.reader import OpenBundle
from allrounder.engines.options import EngineOptions
from allrounder.engines.sessions import runs_on_cpu
from allrounder.manifest import Entry

__all__ = ["available_bytes", "fits", "needed_bytes"]

_FAST, _WIDENED = 1, 2  # copies of the weights that one engine holds
_SHARE = 0.7  # of what is free: activations, caches and other processes need memory too


def fits(bundle: OpenBundle, entries: Sequence[Entry], options: EngineOptions) -> bool:
    """Whether these entries can be open at once; True where the free memory is unknown."""
    available = available_bytes()
    return available is None or needed_bytes(bundle, entries, options) < _SHARE * available


def needed_bytes(bundle: OpenBundle, entries: Sequence[Entry], options: EngineOptions) -> int:
    """Returns about how many bytes these entries hold for themselves when they are open at once."""
    return sum(_copies(entry, options) * _weights(bundle, entry) for entry in entries)


def available_bytes() -> int | None:
    """Returns the memory that is free for new work, or None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # no Linux /proc
    return None


def _copies(entry: Entry, options: EngineOptions) -> int:
    if options.device_kind == "cpu" and not runs_on_cpu(entry.backend, options):
        return 0  # its weights lie on the GPU
    if options.device_kind == "cpu" and entry.precision != "fp32":
        return _WIDENED
    return _FAST if options.weights == "fast" else 0


def _weights(bundle: OpenBundle, entry: Entry) -> int:
    """Returns the bytes of the weights in an entry's precision."""
    return sum(
        record.bytes
        for path, record in bundle.manifest.files.items()
        if path.startswith("graphs/weights/") and f"-{entry.precision}-" in path
    )
