"""How the time of a decoded token grows with the cache, beside what attention alone costs.

Decodes with `full` of a random model at several cache capacities, and runs as many lone Attention nodes over caches of
the same size, interleaved. Of every pair the fastest round counts, since other work on the machine only ever adds time.
Prints milliseconds per token and the slopes; the claim is that decoding grows by no more than its attention does, that
is, that no step copies the whole cache.

    python benchmarks/decode_growth.py [--layers 8] [--threads 2]
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
import onnx
import onnxruntime
from onnx import TensorProto, helper

from allrounder.chat.messages import question
from allrounder.commands.pipeline.random_model import write_random_model
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging, publish
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.options import EngineOptions
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.manifest import Limits
from allrounder.progress import TerminalProgress
from allrounder.pruning import pruning_config
from allrounder.runtime.engine import Engine
from allrounder.versions import FULL
from allrounder.vlm.random.model import Shape

ROOMS = (64, 512, 1024, 2048, 3072)
HEADS, KV_HEADS, HEAD_DIM = 14, 2, 64
ROUNDS, STEPS = 25, 2  # interleaved rounds, and steps of each subject in a round


def write_engine(folder: Path, layers: int, threads: int) -> Engine:
    """Returns `full` of a random decoder with the attention of the 0.5B shape and little else, behind a small tower."""
    text = {"hidden_size": HEADS * HEAD_DIM, "num_hidden_layers": layers, "num_attention_heads": HEADS}
    text |= {
        "num_key_value_heads": KV_HEADS,
        "intermediate_size": 256,
        "vocab_size": 400,
    }  # thin: growth is what counts
    shape = Shape(text={**text, "max_position_embeddings": 8192}, vision={"image_size": 336})
    pair = write_random_model(folder, shape)
    limits = Limits(images=1, image_tokens=576, text_tokens=64, new_tokens=max(ROOMS), batch=1)
    freezer = Freezer(pair.vlm, None, folder / "frozen", FreezeOptions(limits=limits), TerminalProgress())
    freezer.shared()
    freezer.add(pruning_config(FULL, layers=layers, prune_layer=0, layer_policy="static"))
    freezer.finish()
    with Staging(folder / "bundle") as staging:
        backend("onnxruntime").build(folder / "frozen", staging, BuildOptions())
        bundle = publish(staging)
    return Engine.open(open_bundle(bundle.path), bundle.manifest.entries[0], EngineOptions(threads=threads))


def decode_step(engine: Engine, free_slots: int) -> tuple[Callable[[], object], int]:
    """Returns a function that decodes one token into a cache with ``free_slots``, and the cache's capacity."""
    layout, images = engine.layout(question("what is it?")), engine.prepare([np.zeros((336, 336, 3), np.uint8)])
    state = engine.start(images, layout, free_slots=free_slots)
    return lambda: engine.decode(state, [7]), layout.rows + free_slots


def attention_step(capacity: int, filled: int, layers: int, threads: int) -> Callable[[], object]:
    """Returns a function that runs ``layers`` lone Attention nodes, one query row over ``filled`` rows of a cache."""
    cache = [1, KV_HEADS, capacity, HEAD_DIM]
    inputs = {"query": [1, HEADS, 1, HEAD_DIM]}
    inputs |= {f"{kind}{layer}": cache for layer in range(layers) for kind in ("key", "value")}
    nodes = [
        helper.make_node(
            "Attention", ["query", f"key{layer}", f"value{layer}", "", "", "", "filled"], [f"out{layer}"], is_causal=1
        )
        for layer in range(layers)
    ]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
        + [helper.make_tensor_value_info("filled", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info(f"out{layer}", TensorProto.FLOAT, inputs["query"]) for layer in range(layers)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    onnx.checker.check_model(model)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as the engine's sessions
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    feeds = {name: generator.normal(size=shape).astype(np.float32) for name, shape in inputs.items()}
    binding = session.io_binding()
    for name, value in {**feeds, "filled": np.array([filled], np.int64)}.items():
        binding.bind_cpu_input(name, value)
    for layer in range(layers):
        binding.bind_output(f"out{layer}")
    return lambda: session.run_with_iobinding(binding)


def fastest(step: Callable[[], object]) -> float:
    """Returns milliseconds of the fastest of a few runs."""
    times = []
    for _ in range(STEPS):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return min(times) * 1000


def main() -> None:
    """Measures, prints a table and, as the last line, one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="allrounder-growth-") as folder:
        engine = write_engine(Path(folder), arguments.layers, arguments.threads)
        steps, capacities = zip(*(decode_step(engine, free_slots) for free_slots in ROOMS), strict=True)
        rows = min(capacities) - min(ROOMS)  # what the prompt has filled
        alone = [attention_step(capacity, rows, arguments.layers, arguments.threads) for capacity in capacities]
        rounds = [
            [(fastest(step), fastest(lone)) for step, lone in zip(steps, alone, strict=True)] for _ in range(ROUNDS)
        ]
    token, attention = np.median(np.array(rounds[2:]), axis=0).T
    for capacity, whole, lone in zip(capacities, token, attention, strict=True):
        print(f"cache of {capacity:5d} rows: {whole:8.3f} ms per token, attention alone {lone:8.3f} ms")
    growth, alone_growth = (float(np.polyfit(capacities, values, 1)[0]) * 1000 for values in (token, attention))
    print(
        f"per 1000 rows more: {growth:.3f} ms per token, attention alone {alone_growth:.3f} ms "
        f"({growth / alone_growth:.2f} of it)"
    )
    report = {"capacities": list(capacities), "token_ms": token.tolist(), "attention_ms": attention.tolist()}
    print(json.dumps({**report, "growth": growth, "attention_growth": alone_growth}))


if __name__ == "__main__":
    main()
