"""What dropping image tokens costs: the gather at N = 576, 2304 and 4096, beside the prefill that it is part of.

The gather runs alone, as a function of standard ops and as the native op where that is installed. The prefill is that
of an engine with the decoder of the 0.5B shape behind a thin tower, with par-lite's keep rule; it has few layers by
default, and its time is scaled to all 24. Of every subject the fastest of some runs counts, and the median of the
rounds. The last line is one JSON object.

    python benchmarks/gather_cost.py [--layers 4] [--rounds 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
from native_op import Shape, bind, inputs, model
from onnx import TensorProto

from allrounder.chat.messages import question
from allrounder.commands.pipeline.random_model import write_random_model
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging, publish
from allrounder.engines.options import EngineOptions
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.manifest import Limits
from allrounder.native import ort_ops
from allrounder.progress import TerminalProgress
from allrounder.pruning import custom_version, pruning_config
from allrounder.runtime.engine import Engine
from allrounder.versions import keep_of, kept_tokens
from allrounder.vlm.random.model import SHAPES
from allrounder.vlm.random.model import Shape as ModelShape

TOKENS = (576, 2304, 4096)
PATCHES, TEXT, PRUNE_LAYER = 8, 64, 2  # an image is 8 x 8 tokens of the thin tower
KEEP = keep_of("par-lite")
RUNS = 3


def write_engine(folder: Path, layers: int, threads: int) -> Engine:
    """Returns an engine that keeps all of ``layers`` layers of the 0.5B shape and par-lite's share of tokens."""
    text = {**SHAPES["0.5b"].text, "num_hidden_layers": layers, "max_position_embeddings": 8192}
    pair = write_random_model(folder, ModelShape(text=text, vision={"image_size": 14 * PATCHES}))
    images = max(TOKENS) // PATCHES**2
    limits = Limits(images=images, image_tokens=max(TOKENS), text_tokens=512, new_tokens=8, batch=1)
    freezer = Freezer(pair.vlm, pair.router, folder / "frozen", FreezeOptions(limits=limits), TerminalProgress())
    freezer.shared()
    name = custom_version(KEEP, layers)
    freezer.add(pruning_config(name, layers=layers, prune_layer=PRUNE_LAYER, layer_policy="static"))
    freezer.finish()
    with Staging(folder / "bundle") as staging:
        backend("onnxruntime").build(folder / "frozen", staging, BuildOptions())
        bundle = publish(staging)
    return Engine.open(bundle, bundle.manifest.entries[0], EngineOptions(threads=threads))


def prefill(engine: Engine, tokens: int) -> Callable[[], object]:
    """Returns a function that runs a prompt with so many image tokens, images read and scored before."""
    images, side = tokens // PATCHES**2, engine.model.images.size
    layout = engine.layout(question("what is it?", images))
    rgb = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    image_embeds = engine.embed(engine.prepare([rgb] * images))
    scores = engine.route(layout, image_embeds)
    return lambda: engine.prefill(layout, image_embeds, scores, free_slots=1)


def gather(tokens: int, hidden: int, library: Path | None, threads: int) -> Callable[[], object]:
    """Returns a function that runs the gather of one image of so many tokens, alone."""
    shape = Shape(1, tokens, kept_tokens(KEEP, tokens), TEXT, hidden)
    return bind(model(TensorProto.FLOAT), library, inputs(shape, np.float32), threads).run


def fastest(step: Callable[[], object]) -> float:
    """Returns milliseconds of the fastest of a few runs."""
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return min(times) * 1000


def main() -> None:
    """Measures, prints a table and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4, help="of the decoder that is timed (default: 4 of 24)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    text = SHAPES["0.5b"].text
    scale, hidden = text["num_hidden_layers"] / arguments.layers, int(text["hidden_size"])
    libraries: dict[str, Path | None] = {"function": None}
    if library := ort_ops():
        libraries["native op"] = library
    rows = []
    with tempfile.TemporaryDirectory(prefix="allrounder-gather-") as folder:
        engine = write_engine(Path(folder), arguments.layers, arguments.threads)
        for tokens in TOKENS:
            steps = {name: gather(tokens, hidden, each, arguments.threads) for name, each in libraries.items()}
            steps["prefill"] = prefill(engine, tokens)
            rounds = [{name: fastest(step) for name, step in steps.items()} for _ in range(arguments.rounds)]
            found = {name: float(np.median([each[name] for each in rounds])) for name in steps}
            found["prefill"] *= scale
            rows.append({"tokens": tokens, **{name: round(value, 4) for name, value in found.items()}})
            shares = [
                f"{name} {found[name]:.2f} ms ({found[name] / found['prefill']:.3%} of the prefill)"
                for name in libraries
            ]
            print(f"N = {tokens}: prefill {found['prefill']:.1f} ms, {', '.join(shares)}")
    print(json.dumps({"benchmark": "gather_cost", "layers_timed": arguments.layers, "rows": rows}))


if __name__ == "__main__":
    main()
