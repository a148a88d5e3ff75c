"""Whether engines fit into memory side by side.

What it is: one estimate, on the safe side. What it knows: the bundle's weights files and what memory is free.
What it does not know: what a backend does with weights beyond packing them once per session.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from allrounder.bundle import OpenBundle
from allrounder.manifest import Entry

__all__ = ["fit_side_by_side"]

_COPIES = 2  # prefill and decode each pack the weights of an engine opened with weights="fast"


def fit_side_by_side(bundle: OpenBundle, entries: Sequence[Entry]) -> bool:
    """Whether engines of all ``entries`` would take less than half of the memory that is free now."""
    weights = sum(record.bytes for path, record in bundle.manifest.files.items() if path.startswith("graphs/weights/"))
    available = _available_bytes()
    return available is None or weights * _COPIES * len(entries) < available / 2


def _available_bytes() -> int | None:
    """Returns the memory that is free for new work, or None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # no Linux /proc
    return None
