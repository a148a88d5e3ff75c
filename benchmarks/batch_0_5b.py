"""What requests cost together and one by one, on a random model of 0.5B shape: decode steps, whole answers, memory.

Three parts, for `full` and `par-lite` with static layers, fp32, ONNX Runtime:

- a decode step of 1, 2, 4 and 8 sequences of unequal length, interleaved: medians, and their ratios to one;
- 8 requests through `Runtime.generate_batch` and one by one through `Runtime.chat`, interleaved: tokens per second;
- PSS of a process that ran 8 prompts and decodes the last or all of them, against the bytes of their keys, values and
  logits. Each is a process of its own, so that nothing else comes between.

    python benchmarks/batch_0_5b.py [--rounds 21] [--answers 3] [--new-tokens 128] [--threads 2] [--dir DIR]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from allrounder.engines.bundle.reader import OpenBundle, open_bundle
from allrounder.engines.options import EngineOptions
from allrounder.manifest import Entry
from allrounder.progress import TerminalProgress
from allrounder.runtime import Engine, Runtime
from allrounder.runtime.cache import Pool
from allrounder.runtime.measure import default_workload, make_request
from allrounder.versions import DEFAULT_VERSION, FULL

BATCHES = (1, 2, 4, 8)
MOST = max(BATCHES)
STEP_PROMISED = {4: 1.6, 8: 2.5}  # at most, times the step of one
SPEED_PROMISED = 2.0  # at least, times the tokens per second of one by one
MEMORY_PROMISED = 1.15  # at most, times the keys, values and logits
ROLLUP = Path("/proc/self/smaps_rollup")
_WARM_UP = 3  # steps, which are thrown away


def main() -> int:
    """Measures; returns 1 where a promise is missed."""
    from allrounder.commands.pipeline.random_model import build_shape  # not where memory is measured: it imports torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="0.5b", help="a named random shape; small ones miss the promises")
    parser.add_argument("--rounds", type=int, default=21, help="decode steps of each batch")
    parser.add_argument("--answers", type=int, default=3, help="rounds of 8 whole answers")
    parser.add_argument("--new-tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--dir", type=Path, help="where temporary files go: about two checkpoints")
    arguments = parser.parse_args()
    options = EngineOptions(threads=arguments.threads)
    with tempfile.TemporaryDirectory(prefix="allrounder-batch-", dir=arguments.dir) as folder:
        versions, progress = (FULL, DEFAULT_VERSION), TerminalProgress()
        bundle = build_shape(arguments.shape, Path(folder), versions, progress, ("static",))
        rows: list[dict[str, Any]] = []
        for entry in bundle.manifest.entries:
            engine = Engine.open(bundle, entry, options)
            row: dict[str, Any] = {"entry": entry.label, "step_ms": step_times(engine, arguments.rounds)}
            row["seconds"] = answer_times(engine, arguments.answers, arguments.new_tokens)
            del engine  # two would not fit everywhere
            row["memory"] = {slots: held(bundle, entry, slots, options) for slots in (1, MOST)}
            rows.append(row)
            row["met"] = report(row, arguments.new_tokens)
    met = all(row["met"] for row in rows)
    print(json.dumps({"shape": arguments.shape, "threads": options.thread_count, "met": met, "rows": rows}))
    return 0 if met else 1


def step_times(engine: Engine, rounds: int) -> dict[int, float]:
    """Returns the median milliseconds of a decode step by number of sequences, interleaved."""
    pools = {batch: filled(engine, batch, batch, _WARM_UP + rounds) for batch in BATCHES}
    times: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    for _ in range(_WARM_UP + rounds):
        for batch, pool in pools.items():
            started = time.perf_counter()
            pool.advance([[0]] * batch)
            times[batch].append((time.perf_counter() - started) * 1000)
    return {batch: round(float(np.median(each[_WARM_UP:])), 2) for batch, each in times.items()}


def filled(engine: Engine, slots: int, prompts: int, new_tokens: int) -> Pool:
    """Returns a pool whose slots hold the last of so many prompts, of an image each and texts of unequal length."""
    pool, workload = engine.pool(slots), default_workload(engine)
    for number in range(prompts):
        if number >= slots:
            pool.remove(0)
        request = make_request(engine, msgspec.structs.replace(workload, text_tokens=workload.text_tokens - 4 * number))
        engine.start([engine.preprocess(request.rgb)], request.layout, free_slots=new_tokens, pool=pool)
    return pool


def answer_times(engine: Engine, rounds: int, new_tokens: int) -> dict[str, list[float]]:
    """Returns the seconds that 8 requests take together and one by one, of each round."""
    pixels = np.random.default_rng(0).integers(0, 256, (336, 336, 3), np.uint8)
    image = {"type": "image", "image": pixels}
    texts = ["what is it? " * (1 + number) for number in range(MOST)]
    contents = [[image, {"type": "text", "text": text}] for text in texts]
    messages = [[{"role": "user", "content": content}] for content in contents]
    times: dict[str, list[float]] = {"batch": [], "alone": [], "same_answers": []}
    runtime = Runtime(engine)
    runtime.chat(messages[0], max_new_tokens=2)  # warms up
    for _ in range(rounds):
        started = time.perf_counter()
        together = runtime.generate_batch([{"messages": each, "max_new_tokens": new_tokens} for each in messages])
        times["batch"].append(time.perf_counter() - started)
        started = time.perf_counter()
        alone = [runtime.chat(each, max_new_tokens=new_tokens) for each in messages]
        times["alone"].append(time.perf_counter() - started)
        pairs = zip(together, alone, strict=True)
        times["same_answers"].append(sum(one.token_ids == other.token_ids for one, other in pairs))
    return times


def held(bundle: OpenBundle, entry: Entry, slots: int, options: EngineOptions) -> dict[str, int]:
    """Returns PSS, and bytes of keys, values and logits, of a process that decodes so many sequences."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_decode, args=(str(bundle.path), entry.label, slots, options, sender))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise SystemExit(f"{entry.label} could not be measured") from None
    finally:
        child.join()


def report(row: dict[str, Any], new_tokens: int) -> bool:
    """Prints a row in words; returns whether its promises are kept."""
    steps, seconds, memory = row["step_ms"], row["seconds"], row["memory"]
    print(f"{row['entry']}: a step of 1 takes {steps[1]:.1f} ms")
    good: list[bool] = []
    for batch in BATCHES[1:]:
        ratio, wanted = steps[batch] / steps[1], STEP_PROMISED.get(batch)
        good.append(wanted is None or ratio <= wanted)
        print(f"  of {batch}: {steps[batch]:.1f} ms, {ratio:.2f}x{_said(good[-1], wanted, 'at most')}")
    speedup = float(np.median(np.array(seconds["alone"]) / np.array(seconds["batch"])))
    good.append(speedup >= SPEED_PROMISED)
    rate = MOST * new_tokens / np.median(seconds["batch"])
    print(
        f"  {MOST} answers together: {rate:.1f} tokens/s, {speedup:.2f}x of one by one"
        f"{_said(good[-1], SPEED_PROMISED, 'at least')}; {min(seconds['same_answers'])} of {MOST} with the same tokens"
    )
    more, wanted = (memory[MOST][name] - memory[1][name] for name in ("pss", "tensors"))
    good.append(more <= MEMORY_PROMISED * wanted)
    print(
        f"  {MOST} slots hold {more / 2**20:.0f} MiB more than one, their caches and logits {wanted / 2**20:.0f} MiB: "
        f"{more / wanted:.2f}x{_said(good[-1], MEMORY_PROMISED, 'at most')}"
    )
    row["speedup"], row["memory_ratio"] = round(speedup, 3), round(more / wanted, 3)
    return all(good)


def _said(good: bool, wanted: float | None, bound: str) -> str:
    return "" if wanted is None else f", promised {bound} {wanted}x: {'met' if good else 'MISSED'}"


def _decode(place: str, label: str, slots: int, options: EngineOptions, results: Connection) -> None:
    bundle = open_bundle(place)
    engine = Engine.open(bundle, next(each for each in bundle.manifest.entries if each.label == label), options)
    pool = filled(engine, slots, MOST, 16)  # the same prompts, however many stay
    for _ in range(16):
        pool.advance([[0]] * slots)
    lines = dict(line.split(":", 1) for line in ROLLUP.read_text(encoding="ascii").splitlines()[1:])
    numbers = pool.numbers + slots * engine.model.vocabulary
    results.send({"pss": int(lines["Pss"].split()[0]) * 1024, "tensors": numbers * np.dtype(np.float32).itemsize})


if __name__ == "__main__":
    sys.exit(main())
