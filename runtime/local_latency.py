"""Latencies that count on this machine, for a bundle that was measured elsewhere or not at all.

Entries are interleaved in one run where time and memory allow. Else they are measured one after another, cheapest
first, so that the time limit costs the slowest their figures: they then cannot be chosen by target, which is logged.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from allrounder.engines.bundle.reader import OpenBundle
from allrounder.engines.options import EngineOptions
from allrounder.engines.sessions import backend
from allrounder.fingerprint import Machine
from allrounder.manifest import Entry, Latency
from allrounder.progress import Progress, silent
from allrounder.runtime.engine import open_engines
from allrounder.runtime.measure import default_workload, measure_latency
from allrounder.runtime.memory import fits
from allrounder.userdirs import cache_dir, write_whole

__all__ = ["LIMIT_SECONDS", "with_local_latency"]

LIMIT_SECONDS = 20.0
_ROUNDS_AT_LEAST = 3  # two of warm-up and one that counts
_log = logging.getLogger("allrounder.runtime")


class _Figures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cache's file: an entry's label -> its latency."""

    latencies: dict[str, Latency]


def with_local_latency(
    bundle: OpenBundle,
    entries: Sequence[Entry],
    options: EngineOptions,
    *,
    limit_seconds: float = LIMIT_SECONDS,
    progress: Progress = silent,
) -> tuple[Entry, ...]:
    """Returns ``entries`` with latencies of this machine.

    The manifest's figures are taken where all of them are of this machine and of ``weights="fast"``, with which they
    are measured. An entry that the builder left unmeasured beside measured ones stays so: it is not meant to be
    chosen by target.

    Raises:
        EngineUnavailable: The device is not there.
        BackendError: A backend's library failed.
    """
    known = [entry for entry in entries if entry.latency is not None]
    machines = {name: backend(name).fingerprint(options) for name in sorted({entry.backend for entry in entries})}
    count_here = all(entry.latency and entry.latency.machine == machines[entry.backend] for entry in known)
    if known and count_here and options.weights == "fast":
        return tuple(entries)
    path = _cache_file(bundle, options, tuple(machines.values()))
    figures = _read(path)
    wanted = known or list(entries)
    if figures is None:
        figures = _measure(bundle, wanted, options, limit_seconds, progress)
        _write(path, figures)
    return tuple(msgspec.structs.replace(entry, latency=figures.get(entry.label)) for entry in entries)


def _measure(
    bundle: OpenBundle, entries: Sequence[Entry], options: EngineOptions, limit_seconds: float, progress: Progress
) -> dict[str, Latency]:
    _log.warning(
        "the latencies in %s were not measured on this machine with these options: measuring %d entries, up to %.0f s",
        bundle.path,
        len(entries),
        limit_seconds,
    )
    deadline = time.monotonic() + limit_seconds
    cheapest_first = sorted(entries, key=_budget)
    progress("measuring entries", 0, len(entries))
    probe = _measure_together(bundle, cheapest_first[:1], options, _Effort(repeats=1))
    figures = dict(probe.figures)
    left = deadline - time.monotonic()
    cheap = _budget(cheapest_first[0])
    rounds = sum(_budget(entry) / cheap for entry in entries) * probe.seconds
    if rounds < left and fits(bundle, entries, options):
        figures = _measure_together(bundle, cheapest_first, options, _Effort(seconds=left)).figures
    else:
        figures |= _measure_apart(bundle, cheapest_first, options, deadline, probe.seconds)
    progress("measuring entries", len(entries), len(entries))
    return figures


def _budget(entry: Entry) -> int:
    return entry.pruning.size


class _Effort(NamedTuple):
    repeats: int = 30  # rounds where time allows
    seconds: float | None = None  # opening included


class _Measured(NamedTuple):
    figures: dict[str, Latency]
    seconds: float  # that opening, two rounds of warm-up and one round that counts take: the least


def _measure_together(
    bundle: OpenBundle, entries: Sequence[Entry], options: EngineOptions, effort: _Effort
) -> _Measured:
    """Returns the latencies of ``entries``, interleaved."""
    started = time.monotonic()
    engines = open_engines(bundle, entries, options)
    opened = time.monotonic() - started
    workload = default_workload(engines[0])
    seconds = None if effort.seconds is None else max(0.0, effort.seconds - opened)
    latencies = measure_latency(engines, workload, repeats=effort.repeats, seconds=seconds)
    request_ms = sum(each.ttft_ms.p50 + (workload.new_tokens - 1) * each.tpot_ms.p50 for each in latencies)
    least = opened + _ROUNDS_AT_LEAST * request_ms / 1000
    return _Measured({entry.label: latency for entry, latency in zip(entries, latencies, strict=True)}, least)


def _measure_apart(
    bundle: OpenBundle, entries: Sequence[Entry], options: EngineOptions, deadline: float, least: float
) -> dict[str, Latency]:
    """Returns the latencies of ``entries``, cheapest first, one after another, as far as time allows."""
    figures: dict[str, Latency] = {}
    for index, entry in enumerate(entries):
        left = deadline - time.monotonic()
        if left < least:  # the seconds that a cheaper one took at the least
            _log.warning("no time was left to measure %s", entry.label)
            continue
        effort = _Effort(seconds=left / (len(entries) - index))
        found = _measure_together(bundle, [entry], options, effort)
        figures |= found.figures
        least = found.seconds
    return figures


def _cache_file(bundle: OpenBundle, options: EngineOptions, machines: tuple[Machine, ...]) -> Path | None:
    """Returns the file for this bundle, these options and this machine; None for a user without a cache."""
    folder = cache_dir()
    if folder is None:
        return None
    key = msgspec.json.encode([bundle.digest, options.weights, options.device, machines])
    return folder / "latency" / f"{hashlib.sha256(key).hexdigest()}.json"


def _read(path: Path | None) -> dict[str, Latency] | None:
    """Returns the cached figures, or None where there are none to be used."""
    if path is None:
        return None
    try:
        figures = msgspec.json.decode(path.read_bytes(), type=_Figures).latencies
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        _log.warning("the cached latencies in %s cannot be read (%s): measuring again", path, error)
        return None
    return figures or None


def _write(path: Path | None, figures: dict[str, Latency]) -> None:
    if path is None:
        _log.warning("there is no cache directory: the latencies will be measured at every load by target")
        return
    try:
        write_whole(path, msgspec.json.encode(_Figures(latencies=figures)))
    except OSError as error:
        _log.warning("the latencies could not be kept (%s): they will be measured at every load by target", error)
