"""`full` and `par-lite` of LLaVA-OneVision-0.5B's shape at 1, 3 and 9 tiles beside the whole image, phase by phase.

In every round the versions of a backend take turns over all images; tower and router, whose graphs they share, run once
per image. What image tokens cost below K is the prefill that keeps two of them less that of the question alone; what
they cost from K on is the version's prefill less the former. Memory is the peak of a process that opens one version
alone and answers the images in turn, taken anew in each phase.

    python benchmarks/tiles.py --work DIR [--rounds 3] [--backends onnxruntime,openvino] [--tiles 1,3,9]

Model, bundles and finished rounds stay in DIR (about 10 GB), so that a call that was cut off can be made again. It
wants 14 GB of memory. The tables are left in DIR/report.md; the last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np

from allrounder.calib.tables import table
from allrounder.chat.messages import question
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.options import EngineOptions
from allrounder.layout import keep_counts
from allrounder.manifest import Precision
from allrounder.progress import TerminalProgress
from allrounder.runtime.answer import Stopwatch
from allrounder.runtime.engine import Engine, open_engines
from allrounder.versions import DEFAULT_VERSION, FULL

PRECISIONS: dict[str, Precision] = {"onnxruntime": "fp32", "openvino": "bf16"}
GRIDS = {1: (1, 1), 2: (1, 2), 3: (1, 3), 4: (2, 2), 6: (2, 3), 9: (3, 3)}  # rows and columns of tiles
QUESTION = "What is in the image?"
STEPS = 8  # tokens after the first
FEWEST = 2  # image tokens: a keep rule of 1 is all of them
QUIET = 0.1  # cores that others may use where figures are to be quoted
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEASURES = {
    "preprocess": "image preparation",
    "vision": "tower",
    "router": "router",
    "full": f"prefill, {FULL}",
    "pruned": f"prefill, {DEFAULT_VERSION}",
    "text": "  of it the question",
    "below": "  of it image tokens below K",
    "beyond": "  of it image tokens from K on",
    "full_ttft": f"TTFT, {FULL}",
    "pruned_ttft": f"TTFT, {DEFAULT_VERSION}",
    "full_tpot": f"a new token, {FULL}",
    "pruned_tpot": f"a new token, {DEFAULT_VERSION}",
}


def main() -> None:
    """Builds and measures what is missing in the folder, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="where everything is kept")
    parser.add_argument("--shape", default="onevision-0.5b", help="a named random shape with canvases")
    parser.add_argument("--backends", default=",".join(PRECISIONS), metavar="NAMES")
    parser.add_argument("--tiles", default="1,3,9", metavar="NUMBERS", help=f"of {', '.join(map(str, GRIDS))}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads (default: all usable cores)")
    arguments = parser.parse_args()
    work, tiles = arguments.work, [int(each) for each in arguments.tiles.split(",")]
    work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"shape": arguments.shape, "threads": arguments.threads, "backends": {}}
    for backend in arguments.backends.split(","):
        place = work / f"{backend}-{PRECISIONS[backend]}"
        if not place.exists():
            apart(build, work, arguments.shape, backend)
        rounds = apart(race, place, tiles, arguments.rounds, arguments.threads)
        memory = {each: kept_peaks(place, each, tiles, arguments.threads) for each in (FULL, DEFAULT_VERSION)}
        found["backends"][backend] = {"rounds": rounds, "memory": memory}
    page = "\n\n".join(pages(found, tiles))
    (work / "report.md").write_text(page + "\n", encoding="utf-8")
    print(page)
    print(json.dumps(found))


def apart(function: Callable[..., Any], *arguments: object) -> Any:
    """Returns what a function gives in a process of its own, whose memory goes with it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def kept_peaks(place: Path, version: str, tiles: Sequence[int], threads: int | None) -> dict[str, Any]:
    """Returns what `peaks` gives, of a former call where there is one with the same tiles."""
    file = place.with_name(f"{place.name}-{version}-{'-'.join(map(str, tiles))}.json")
    if not file.exists():
        file.write_text(json.dumps(apart(peaks, place, version, tiles, threads)), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def build(work: Path, shape: str, backend: str) -> None:
    """Builds both versions, static, for a backend; the model is written where it is not there."""
    import torch

    from allrounder.commands.pipeline.random_model import RandomModel, build_bundle_of, write_random_model

    progress, pair = TerminalProgress(), RandomModel(work / "model", work / "router")
    if not (pair.router / "router.json").exists():
        pair = write_random_model(work, shape, dtype=torch.bfloat16, progress=progress)
    pair = pair._replace(precision=PRECISIONS[backend])
    place, versions = work / f"{backend}-{pair.precision}", (FULL, DEFAULT_VERSION)
    build_bundle_of(pair, place, versions, progress, ("static",), (backend,))


def race(place: Path, tiles: Sequence[int], rounds: int, threads: int | None) -> list[dict[str, Any]]:
    """Returns ``rounds`` rounds, each a record per number of tiles; those of former calls are taken as they are."""
    log, progress = place.with_suffix(".jsonl"), TerminalProgress()
    done = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    done = [each for each in done if set(map(str, tiles)) <= set(each)]
    if len(done) >= rounds:
        return done[:rounds]
    bundle = open_bundle(place)
    entries = [next(e for e in bundle.manifest.entries if e.version == name) for name in (FULL, DEFAULT_VERSION)]
    full, pruned = open_engines(bundle, entries, EngineOptions(threads=threads))
    timed(full, pruned, min(tiles))  # warms up
    while len(done) < rounds:
        started, own, all_of_us = time.monotonic(), time.process_time(), busy_seconds()
        found = {str(count): timed(full, pruned, count) for count in tiles}
        others = (busy_seconds() - all_of_us) - (time.process_time() - own)
        done.append({**found, "others": others / (time.monotonic() - started)})
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done[-1]) + "\n")
        progress(f"rounds of {place.name}", len(done), rounds)
    return done


def timed(full: Engine, pruned: Engine, tiles: int) -> dict[str, float]:
    """Returns milliseconds of one image with a grid of tiles, by the names in `MEASURES`, and its numbers of tokens."""
    watch = Stopwatch()
    rgb = image(full, tiles)
    with watch.phase("preprocess"):
        images = full.prepare([rgb])
    layout = full.layout_of(full.ids(question(QUESTION)), images.planned)
    text = full.layout_of([each for each in full.ids(question(QUESTION)) if each != full.model.image_token_id], ())
    with watch.phase("vision"):
        rows = full.embed(images)
    with watch.phase("router"):
        scores = pruned.route(layout, rows)
    nothing, keep = full.embed(full.prepare([])), pruned.entry.pruning.keep_rule
    with watch.phase("text"):
        pruned.prefill(text, nothing, None, free_slots=0)
    with watch.phase("two"):
        pruned.prefill(layout, rows, scores, keep=FEWEST, free_slots=0)
    for name, engine in (("full", full), ("pruned", pruned)):
        with watch.phase(name):
            state = engine.prefill(layout, rows, scores, free_slots=STEPS)
        for _ in range(STEPS):
            with watch.phase(f"{name}_tpot"):
                engine.decode(state, [7])
        del state
    of = {name: watch.of(name) for name in ("preprocess", "vision", "router", "text", "full", "pruned")}
    of |= {f"{name}_tpot": watch.of(f"{name}_tpot") / STEPS for name in ("full", "pruned")}
    of |= {"below": watch.of("two") - of["text"], "beyond": of["pruned"] - watch.of("two")}
    of["full_ttft"] = of["preprocess"] + of["vision"] + of["full"]
    of["pruned_ttft"] = of["preprocess"] + of["vision"] + of["router"] + of["pruned"]
    return {**of, "rows": layout.rows, "image_tokens": layout.image_tokens, "kept": sum(keep_counts(layout, keep))}


def busy_seconds() -> float:
    """Returns for how long this machine's cores have worked, for anybody."""
    ticks = Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=9)[1:9]
    return sum(int(each) for place, each in enumerate(ticks) if place not in {3, 4}) / os.sysconf("SC_CLK_TCK")


def image(engine: Engine, tiles: int) -> np.ndarray:
    """Returns noise that fills a grid of tiles."""
    rows, columns = (extent * engine.model.images.size for extent in GRIDS[tiles])
    return np.random.default_rng(0).integers(0, 256, (rows, columns, 3), np.uint8)


def peaks(place: Path, version: str, tiles: Sequence[int], threads: int | None) -> dict[str, Any]:
    """Returns bytes: resident with the version open, and the peak of each phase by number of tiles."""
    bundle = open_bundle(place)
    entry = next(each for each in bundle.manifest.entries if each.version == version)
    engine = Engine.open(bundle, entry, EngineOptions(threads=threads))
    found: dict[str, Any] = {"open": resident("VmRSS")}
    for count in tiles:
        held: dict[str, int] = {}
        images = engine.prepare([image(engine, count)])
        layout = engine.layout_of(engine.ids(question(QUESTION)), images.planned)
        RESET.write_text("5", encoding="ascii")
        rows = engine.embed(images)
        held["vision"] = resident("VmHWM")
        RESET.write_text("5", encoding="ascii")
        scores = engine.route(layout, rows)
        held["router"] = resident("VmHWM")
        RESET.write_text("5", encoding="ascii")
        state = engine.prefill(layout, rows, scores, free_slots=STEPS)
        held["prefill"] = resident("VmHWM")
        engine.decode(state, [7])
        del state, rows
        found[str(count)] = held
    return found


def resident(name: str) -> int:
    """Returns the bytes that Linux's account of this process has under a name."""
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def pages(found: Mapping[str, Any], tiles: Sequence[int]) -> list[str]:
    """Returns the tables."""
    lines = [f"random weights of {found['shape']}: nothing is said about answers"]
    for backend, part in found["backends"].items():
        rounds = part["rounds"]
        others = max(each["others"] for each in rounds)
        beside = "" if others < QUIET else f"; beside other work ({others:.2f} cores): run it again on a quiet machine"
        lines.append(f"{backend}, {PRECISIONS[backend]}: medians of {len(rounds)} rounds{beside}")
        lines.append(table(["", *(f"{count} tiles + 1" for count in tiles)], compared(rounds, tiles)))
        lines.append("peak MiB resident, with mapped files")
        head = ["", "open", *(f"{phase} at {count}" for count in tiles for phase in ("tower", "router", "prefill"))]
        rows = [
            [
                version,
                *(f"{value >> 20}" for value in [held["open"], *(v for c in tiles for v in held[str(c)].values())]),
            ]
            for version, held in part["memory"].items()
        ]
        lines.append(table(head, rows))
    return lines


def compared(rounds: Sequence[Mapping[str, Any]], tiles: Sequence[int]) -> list[list[str]]:
    """Returns the rows of a table with a column per number of tiles: `full` over `par-lite`, shares, growth."""

    def middle(ratio: Callable[[Mapping[str, Any]], float]) -> float:
        return statistics.median(ratio(each) for each in rounds)

    first, columns = str(tiles[0]), [str(count) for count in tiles]
    rows = [[name, *(f"{rounds[0][c][key]}" for c in columns)] for name, key in (("N", "image_tokens"), ("T", "kept"))]
    for name, ends in (("prefill", ""), ("TTFT", "_ttft"), ("a new token", "_tpot")):
        over = [middle(lambda r, c=c, e=ends: r[c][f"full{e}"] / r[c][f"pruned{e}"]) for c in columns]
        rows.append([f"{FULL} over {DEFAULT_VERSION}: {name}", *(f"{value:.2f}" for value in over)])
    for key in ("preprocess", "vision", "full"):
        shares = [middle(lambda r, c=c, k=key: r[c][k] / r[c]["full_ttft"]) for c in columns]
        rows.append([f"share of {FULL}'s TTFT: {MEASURES[key]}", *(f"{value:.3f}" for value in shares)])
    for key in ("preprocess", "vision", "router", "pruned", "text", "below", "beyond"):
        shares = [middle(lambda r, c=c, k=key: r[c][k] / r[c]["pruned_ttft"]) for c in columns]
        rows.append([f"share of {DEFAULT_VERSION}'s TTFT: {MEASURES[key]}", *(f"{value:.3f}" for value in shares)])
    for key, name in {"image_tokens": "N", **MEASURES}.items():
        grown = [middle(lambda r, c=c, k=key: r[c][k] / r[first][k]) for c in columns]
        rows.append([f"growth: {name}", *(f"{value:.2f}" for value in grown)])
    return rows


if __name__ == "__main__":
    main()
