"""Latency: how long the entries of a bundle take on this machine.

Entries are interleaved in one run, so that a slow minute of the machine hits all of them alike. Where they do not
fit into memory side by side they are timed one after another, and that is said.
fp16 and bf16 on a CPU have no latency: they run there as casts around fp32 (x86), if at all, and a figure would say
nothing about them.
"""

from __future__ import annotations

from collections.abc import Sequence

from allrounder.engines.bundle.reader import OpenBundle
from allrounder.engines.options import EngineOptions
from allrounder.engines.sessions import runs_on_cpu
from allrounder.manifest import Entry, Latency
from allrounder.progress import Progress, note, silent
from allrounder.runtime.engine import open_engines
from allrounder.runtime.measure import default_workload, measure_latency
from allrounder.runtime.memory import fits

__all__ = ["SECONDS", "counts", "measure"]

SECONDS = 15.0  # time limit of one measurement, per entry timed apart or for all together
_REPEATS = 20


def measure(
    bundle: OpenBundle,
    entries: Sequence[Entry],
    options: EngineOptions | None = None,
    progress: Progress = silent,
) -> tuple[Latency | None, ...]:
    """Returns the latency of each of ``entries``, in their order; None where a figure would not count.

    ``entries`` are of one backend; ``options`` should say ``weights="fast"``, with which manifests are measured.

    Raises:
        EngineUnavailable: The backend, or the device, is not there.
        BackendError: The backend's library failed.
    """
    options = options or EngineOptions()
    timed = [entry for entry in entries if counts(entry, options)]
    together = fits(bundle, timed, options)
    if not together and len(timed) > 1:
        note(progress, f"{len(timed)} engines do not fit into memory side by side: they are timed one after another")
    figures: dict[tuple[str, str, str, int, str], Latency] = {}
    for group in [timed] if together else [[entry] for entry in timed]:
        if group:
            engines = open_engines(bundle, group, options)
            workload = default_workload(engines[0])
            found = measure_latency(engines, workload, repeats=_REPEATS, seconds=SECONDS, progress=progress)
            figures |= {entry.key: latency for entry, latency in zip(group, found, strict=True)}
    return tuple(figures.get(entry.key) for entry in entries)


def counts(entry: Entry, options: EngineOptions) -> bool:
    """Whether a latency of ``entry`` says anything, opened with ``options``."""
    return entry.precision == "fp32" or not runs_on_cpu(entry.backend, options)
