"""The C++ runtime against Python's on one bundle: time to the first token and per further token, interleaved.

Both are loaded in one process, on the same ONNX Runtime with the same threads, and asked the same questions by turns:
who goes first changes with every question. A pair whose answers differ ends the benchmark. Times are those that each
runtime reports of a request; `request` is the caller's own clock around the whole call, the C++ one's by ctypes.

    python benchmarks/native_runtime.py --library build/lib [--bundle bundles/demo] [--versions full,par-lite,par-nano]
        [--questions 40] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import msgspec
import numpy as np

from allrounder.demo.prompts import examples
from allrounder.demo.scenes import Split
from allrounder.engines.options import EngineOptions
from allrounder.engines.sessions import backend
from allrounder.errors import InputInvalid
from allrounder.native.client import NativeRuntime
from allrounder.runtime import Runtime

WARM_UP = 3  # questions asked and thrown away
RESAMPLES = 2000
MEASURES = ("ttft_ms", "tpot_ms", "request_ms")


class Times(NamedTuple):
    """Milliseconds of one request; ``tpot_ms`` is NaN where the answer had one token."""

    ttft_ms: float
    tpot_ms: float
    request_ms: float


class Compared(NamedTuple):
    """Medians in milliseconds, and the median of the ratio C++ to Python, pair by pair, with its 95 % interval."""

    python: float
    cpp: float
    ratio: float
    low: float
    high: float


def ask(generate: Callable[..., Any], rgb: np.ndarray, question: str, new_tokens: int) -> tuple[Any, Times]:
    """Returns an answer and its times."""
    started = time.perf_counter()
    answer = generate(rgb, question, max_new_tokens=new_tokens)
    request_ms = (time.perf_counter() - started) * 1000
    tpot_ms = float("nan") if answer.timing.tpot_ms is None else answer.timing.tpot_ms
    return answer, Times(answer.timing.ttft_ms, tpot_ms, request_ms)


def race(bundle: Path, version: str, arguments: argparse.Namespace) -> np.ndarray:
    """Returns milliseconds [questions, measures, 2]: Python's, then C++'s."""
    rows = []
    with (
        Runtime.load(bundle, version=version, threads=arguments.threads) as python,
        NativeRuntime(bundle, version=version, threads=arguments.threads) as cpp,
    ):
        sides = (python.generate, cpp.generate)
        for number, example in enumerate(examples(Split.TEST, WARM_UP + arguments.questions)):
            rgb, found = np.asarray(example.image), {}
            for side in (0, 1) if number % 2 else (1, 0):
                found[side] = ask(sides[side], rgb, example.question, arguments.new_tokens)
            (answer, mine), (other, its) = found[0], found[1]
            if (answer.token_ids, answer.keep_indices) != (other.token_ids, other.keep_indices):
                raise InputInvalid("the answers differ", where=example.question, got=other.text, wanted=answer.text)
            rows.append(np.array([mine, its]).T)
    return np.stack(rows[WARM_UP:])


def compare(times: np.ndarray) -> dict[str, Compared]:
    """Returns the measures of ``times`` [questions, measures, 2]."""
    draw = np.random.default_rng(0)
    compared = {}
    for name, values in zip(MEASURES, times.transpose(1, 0, 2), strict=True):
        pairs = values[np.isfinite(values).all(axis=1)]
        ratios = pairs[:, 1] / pairs[:, 0]
        again = np.median(draw.choice(ratios, (RESAMPLES, ratios.size)), axis=1)
        low, high = np.percentile(again, (2.5, 97.5))
        figures = (*np.median(pairs, axis=0), np.median(ratios), low, high)
        compared[name] = Compared(*(round(float(value), 4) for value in figures))
    return compared


def main() -> int:
    """Measures, prints a table and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/demo"))
    parser.add_argument("--library", type=Path, help="the folder with liballrounder.so (default: the installed one)")
    parser.add_argument("--versions", default="full,par-lite,par-nano")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.library:
        os.environ["ALLROUNDER_NATIVE_LIBRARY_DIR"] = str(arguments.library.resolve())
    machine = backend("onnxruntime").fingerprint(EngineOptions(threads=arguments.threads))
    print(f"{machine.backend}, {machine.threads} threads of {machine.cores} cores, {arguments.questions} questions")
    print(f"{'version':<10} {'':<11} {'python':>10} {'C++':>10}  C++/Python [95 %]")
    report = {}
    for version in arguments.versions.split(","):
        report[version] = compare(race(arguments.bundle, version, arguments))
        for name, each in report[version].items():
            interval = f"{each.ratio:.3f} [{each.low:.3f}, {each.high:.3f}]"
            print(f"{version:<10} {name:<11} {each.python:>10.2f} {each.cpp:>10.2f}  {interval}")
    facts = {
        "machine": msgspec.to_builtins(machine),
        "load_1_min": os.getloadavg()[0],
        "questions": arguments.questions,
    }
    versions = {version: {name: each._asdict() for name, each in row.items()} for version, row in report.items()}
    print(json.dumps({**facts, "versions": versions}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
