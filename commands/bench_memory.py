"""Peak memory of engines, measured in a process of its own.

It opens entries, answers one request with each, and reads Linux's account of the process in /proc.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from allrounder.engines.options import Weights
from allrounder.errors import BackendError
from allrounder.manifest import Workload

__all__ = ["Memory", "peak_memory"]

_STATUS = Path("/proc/self/status")


class Memory(msgspec.Struct, frozen=True):
    """Bytes; the anonymous part is the process's own, the rest are mapped files, which the system may drop."""

    peak_resident: int
    anonymous: int  # at the end, all engines open


class _Question(msgspec.Struct, frozen=True):
    bundle: str
    labels: tuple[str, ...]
    weights: Weights
    workload: Workload


def peak_memory(bundle: Path, labels: Sequence[str], weights: Weights, workload: Workload) -> Memory | None:
    """Returns what a process holds that opens these entries and answers ``workload`` once with each.

    None where the system keeps no account (no /proc).

    Raises:
        BackendError: The process failed; the end of its stderr is quoted.
    """
    if not _STATUS.exists():
        return None
    question = msgspec.json.encode(_Question(str(bundle), tuple(labels), weights, workload))
    program = [sys.executable, "-m", __name__]  # this very module
    done = subprocess.run(program, input=question, capture_output=True, check=False)  # noqa: S603 - nothing foreign
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-2000:]
        raise BackendError("memory could not be measured", where=f"{', '.join(labels)} ({weights})", got=said)
    return msgspec.json.decode(done.stdout, type=Memory)


def _main() -> None:
    from allrounder.engines.bundle.reader import open_bundle
    from allrounder.engines.options import EngineOptions
    from allrounder.runtime.engine import open_engines
    from allrounder.runtime.measure import sample_latency

    question = msgspec.json.decode(sys.stdin.buffer.read(), type=_Question)
    bundle = open_bundle(question.bundle)
    entries = [entry for entry in bundle.manifest.entries if entry.label in question.labels]
    engines = open_engines(bundle, entries, EngineOptions(threads=question.workload.threads, weights=question.weights))
    sample_latency(engines, question.workload, repeats=1)
    status = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines())
    peak, anonymous = (int(status[name].split()[0]) * 1024 for name in ("VmHWM", "RssAnon"))
    sys.stdout.buffer.write(msgspec.json.encode(Memory(peak, anonymous)))


if __name__ == "__main__":
    _main()
