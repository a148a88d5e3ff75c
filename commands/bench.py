"""``allrounder bench``: versions side by side, timed interleaved in one run.

Absolute times are those of this machine in this minute; what can be quoted are the ratios to `full`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from allrounder.calib.tables import table
from allrounder.commands.bench_memory import Memory, peak_memory
from allrounder.commands.runnable import build_command, runnable
from allrounder.engines.bundle.reader import OpenBundle, open_bundle
from allrounder.engines.options import EngineOptions, Weights
from allrounder.errors import InputInvalid, UnknownVersion
from allrounder.manifest import Entry, Percentiles, Workload
from allrounder.progress import Progress, TerminalProgress
from allrounder.pruning import LAYER_POLICIES
from allrounder.runtime.engine import Engine, open_engines
from allrounder.runtime.measure import Samples, default_workload, make_request, sample_latency, summarise
from allrounder.versions import FULL

__all__ = ["BenchOptions", "BenchReport", "Row", "add_arguments", "bench_bundle", "run"]

_MODES: tuple[Weights, ...] = ("fast", "shared")
_MIB = 1 << 20
_Subject = tuple[Entry, Weights]  # what one row is about


class BenchOptions(NamedTuple):
    """What is benched, on which workload."""

    versions: tuple[str, ...] = ()  # names; none: all
    weights: tuple[Weights, ...] = ("fast",)
    text_tokens: int | None = None
    new_tokens: int | None = None
    repeats: int = 20
    threads: int | None = None
    memory: bool = True  # also start a process per version and mode to see its peak memory


class Row(msgspec.Struct, frozen=True):
    """One entry in one mode; milliseconds are medians where no percentile is named, bytes those of one request."""

    entry: str
    version: str
    weights: Weights
    preprocess_ms: float
    vision_ms: float
    router_ms: float
    prefill_ms: float
    ttft_ms: Percentiles
    tpot_ms: Percentiles
    speedup: dict[str, float] | None  # full over this, same mode: prefill, ttft, tpot; None without a `full` beside it
    kv_bytes: int
    memory: Memory | None


class BenchReport(msgspec.Struct, frozen=True):
    """The last line of stdout."""

    bundle: str
    bundle_bytes: int
    workload: Workload
    rows: tuple[Row, ...]
    together: dict[str, Memory]  # by mode: all benched entries open in one process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``bench`` to ``parser``."""
    parser.description = "Time the versions of a bundle side by side, interleaved; or those of a random model."
    parser.add_argument("bundle", type=Path, nargs="?", help="a bundle directory")
    parser.add_argument("--shape", help="bench a random model of this shape instead, for example 0.5b")
    parser.add_argument(
        "--versions", metavar="NAMES", help="separated by commas (default: all; of a shape full,par-lite)"
    )
    parser.add_argument("--layer-policy", default="dynamic", choices=("both", *LAYER_POLICIES), help="of a shape")
    parser.add_argument("--weights", default="fast", metavar="MODES", help="fast, shared or fast,shared")
    parser.add_argument("--text-tokens", type=int, help="text tokens of the prompt (default: 64)")
    parser.add_argument("--new-tokens", type=int, help="tokens of the answer (default: 16)")
    parser.add_argument("--repeats", type=int, default=20, help="rounds that are counted (default: 20)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all usable cores)")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")


def run(arguments: argparse.Namespace) -> int:
    """Benches, prints the table and, as the last line of stdout, one JSON object."""
    if (arguments.bundle is None) == (arguments.shape is None):
        raise InputInvalid("bench takes either a bundle or --shape", remedy="allrounder bench bundles/demo")
    options = options_from(arguments)
    progress = TerminalProgress()
    if arguments.bundle is not None:
        report = bench_bundle(open_bundle(arguments.bundle, progress=progress), options, progress)
    else:
        from allrounder.commands.pipeline.random_model import build_shape

        with tempfile.TemporaryDirectory(prefix="allrounder-bench-") as folder:
            names = options.versions or (FULL, "par-lite")
            policy = arguments.layer_policy
            policies = LAYER_POLICIES if policy == "both" else (policy,)
            bundle = build_shape(arguments.shape, Path(folder), names, progress, policies)
            report = bench_bundle(bundle, options._replace(versions=()), progress)
    print(render(report))
    print(msgspec.json.encode(report).decode())
    return 0


def options_from(arguments: argparse.Namespace) -> BenchOptions:
    """Returns what the arguments ask for.

    Raises:
        InputInvalid: An unknown mode, or fewer than one round.
    """
    modes = tuple(dict.fromkeys(mode.strip() for mode in arguments.weights.split(",")))
    if unknown := [mode for mode in modes if mode not in _MODES]:
        raise InputInvalid("unknown mode", where="--weights", got=", ".join(unknown), wanted=" or ".join(_MODES))
    if arguments.repeats < 1:
        raise InputInvalid("too few rounds", where="--repeats", got=arguments.repeats, wanted="1 or more")
    names = arguments.versions.split(",") if arguments.versions else []
    return BenchOptions(
        versions=tuple(dict.fromkeys(name.strip() for name in names)),
        weights=modes,
        text_tokens=arguments.text_tokens,
        new_tokens=arguments.new_tokens,
        repeats=arguments.repeats,
        threads=arguments.threads,
        memory=not arguments.no_memory,
    )


def bench_bundle(bundle: OpenBundle, options: BenchOptions, progress: Progress) -> BenchReport:
    """Returns the figures of the chosen entries, all of them interleaved in one run.

    Raises:
        UnknownVersion: The bundle has no entry of a version that is asked for.
        InputInvalid: A workload beyond the bundle's limits.
        EngineUnavailable: None of them runs here.
    """
    entries = runnable(_chosen(bundle, options.versions), EngineOptions(threads=options.threads))
    subjects: list[_Subject] = [(entry, mode) for mode in options.weights for entry in entries]
    engines = [
        engine
        for mode in options.weights
        for engine in open_engines(bundle, entries, EngineOptions(threads=options.threads, weights=mode))
    ]
    workload = default_workload(engines[0], text_tokens=options.text_tokens, new_tokens=options.new_tokens)
    samples = sample_latency(engines, workload, repeats=options.repeats, progress=progress)
    kv_bytes = [_kv_bytes(engine, workload) for engine in engines]
    base = _base(subjects, samples)
    latencies = [summarise(engine, sample, workload) for engine, sample in zip(engines, samples, strict=True)]
    engines.clear()  # the processes below need the memory
    memories = _memories(bundle, subjects, workload, progress) if options.memory else [None] * len(subjects)
    rows = [
        Row(
            entry=entry.label,
            version=entry.version,
            weights=mode,
            preprocess_ms=_median(sample.preprocess),
            vision_ms=_median(sample.vision),
            router_ms=_median(sample.router),
            prefill_ms=_median(sample.prefill),
            ttft_ms=latency.ttft_ms,
            tpot_ms=latency.tpot_ms,
            speedup=_speedup(base.get(mode), sample),
            kv_bytes=kv,
            memory=memory,
        )
        for (entry, mode), sample, latency, kv, memory in zip(
            subjects, samples, latencies, kv_bytes, memories, strict=True
        )
    ]
    return BenchReport(
        bundle=str(bundle.path),
        bundle_bytes=sum(record.bytes for record in bundle.manifest.files.values()),
        workload=workload,
        rows=tuple(rows),
        together=_together(bundle, entries, options, workload),
    )


def render(report: BenchReport) -> str:
    """Returns the report as people read it."""
    header = ["entry", "weights", "preprocess", "vision", "router", "prefill", "TTFT p50", "p95", "p99"]
    header += ["TPOT p50", "p95", "p99", "prefill x", "TTFT x", "TPOT x", "KV MiB", "peak MiB", "private MiB"]
    rows = []
    for row in report.rows:
        ms = [row.preprocess_ms, row.vision_ms, row.router_ms, row.prefill_ms]
        ms += [row.ttft_ms.p50, row.ttft_ms.p95, row.ttft_ms.p99, row.tpot_ms.p50, row.tpot_ms.p95, row.tpot_ms.p99]
        ratios = [f"{row.speedup[name]:.2f}" if row.speedup else "-" for name in ("prefill", "ttft", "tpot")]
        held = [row.memory.peak_resident, row.memory.anonymous] if row.memory else []
        memory = [f"{value / _MIB:.0f}" for value in held] or ["-", "-"]
        rows.append(
            [row.entry, row.weights, *(f"{value:.2f}" for value in ms), *ratios, f"{row.kv_bytes / _MIB:.2f}", *memory]
        )
    work = report.workload
    size = f"an image of {work.image_size} pixels squared, {work.text_tokens} text tokens, "
    size += f"{work.new_tokens} new tokens, {work.threads} threads"
    lines = [
        f"milliseconds; {size}; x: full over this, medians of one interleaved run",
        table(header, rows),
        f"bundle: {report.bundle_bytes / _MIB:.1f} MiB on disk",
    ]
    lines += [
        f"all of these open in one process, weights={mode}: {memory.peak_resident / _MIB:.0f} MiB at the peak, "
        f"{memory.anonymous / _MIB:.0f} MiB of it private"
        for mode, memory in report.together.items()
    ]
    return "\n".join(lines)


def _chosen(bundle: OpenBundle, names: Sequence[str]) -> tuple[Entry, ...]:
    entries = bundle.manifest.entries
    there = {entry.version for entry in entries}
    if missing := [name for name in names if name not in there]:
        raise UnknownVersion(
            f"the bundle has no {' or '.join(missing)}",
            where=bundle.path,
            wanted=", ".join(sorted(there)),
            remedy=build_command(bundle, "--version", ",".join(missing)),
        )
    return tuple(entry for entry in entries if not names or entry.version in names)


def _kv_bytes(engine: Engine, workload: Workload) -> int:
    """Returns the bytes that one request's keys and values hold, the slots of its answer included."""
    request = make_request(engine, workload)
    cache = engine.start(engine.prepare([request.rgb]), request.layout, free_slots=request.new_tokens).cache
    return cache.numbers * (4 if engine.entry.precision == "fp32" else 2)


def _base(subjects: Sequence[_Subject], samples: Sequence[Samples]) -> dict[Weights, Samples]:
    """Returns the samples of `full` by mode, those of the highest precision where there are several."""
    found: dict[Weights, tuple[str, Samples]] = {}
    for (entry, mode), sample in zip(subjects, samples, strict=True):
        if entry.version == FULL and (mode not in found or entry.precision == "fp32"):
            found[mode] = (entry.precision, sample)
    return {mode: sample for mode, (_, sample) in found.items()}


def _speedup(base: Samples | None, sample: Samples) -> dict[str, float] | None:
    """Returns the medians of `full` over those of a sample."""
    if base is None:
        return None
    pairs = {
        "prefill": (base.prefill, sample.prefill),
        "ttft": (base.ttft, sample.ttft),
        "tpot": (base.tpot, sample.tpot),
    }
    return {name: round(_median(whole) / _median(pruned), 3) for name, (whole, pruned) in pairs.items()}


def _median(values: np.ndarray) -> float:
    return round(float(np.median(values)), 4)


def _memories(
    bundle: OpenBundle, subjects: Sequence[_Subject], workload: Workload, progress: Progress
) -> list[Memory | None]:
    memories = []
    for done, (entry, mode) in enumerate(subjects, start=1):
        memories.append(peak_memory(bundle.path, [entry.label], mode, workload))
        progress("measuring memory", done, len(subjects))
    return memories


def _together(
    bundle: OpenBundle, entries: Sequence[Entry], options: BenchOptions, workload: Workload
) -> dict[str, Memory]:
    """Returns what one process holds that opens all entries at once, by mode; empty for one entry alone."""
    if not options.memory or len(entries) < 2:
        return {}
    labels = [entry.label for entry in entries]
    found = {mode: peak_memory(bundle.path, labels, mode, workload) for mode in options.weights}
    return {mode: memory for mode, memory in found.items() if memory}
