"""The native gather op against its function of standard ops, in ONNX Runtime on one CPU thread.

    python benchmarks/native_op.py [--library liballrounder_ort_ops.so] [--rounds 40]

Both run in one process on the same inputs, by turns, with inputs and outputs bound. A round's ratio is that of the
fastest of some runs, op / function; its median and 5th and 95th percentile are printed: below 1 the op is faster.
Outputs are compared first. The last line is one JSON object. Ratios only: times of a shared machine say little.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
from onnx import TensorProto

from allrounder.export.graph.gather import PLUGIN, token_gather
from allrounder.export.graph.writer import GraphWriter
from allrounder.native import require

REPEATS = 12  # runs of each in a round
DTYPES = {"fp32": (TensorProto.FLOAT, np.float32), "fp16": (TensorProto.FLOAT16, np.float16)}


class Shape(NamedTuple):
    """Of one prompt: each of ``images`` keeps k of its ``tokens``, among ``text`` rows, all of ``hidden`` elements."""

    images: int
    tokens: int
    k: int
    text: int
    hidden: int
    batch: int = 1

    def __str__(self) -> str:
        images = f"{self.images} x {self.tokens} image tokens, {self.keep} kept"
        return f"{images}, {self.batch} x {self.text} rows of text, H={self.hidden}"


SHAPES = (
    Shape(1, 576, 64, 64, 1024),
    Shape(1, 576, 144, 64, 4096),
    Shape(4, 576, 144, 64, 4096),
    Shape(1, 2880, 640, 64, 4096),
)


def model(dtype: int) -> bytes:
    """Returns a graph of one gather, serialized."""
    graph = GraphWriter("gather", {}, dtype)
    inputs = [
        graph.input("hidden", dtype, ["B", "S", "H"]),
        graph.input("position_ids", TensorProto.INT64, ["A", "B", "S"]),
        graph.input("scores", TensorProto.FLOAT, ["N"]),
        graph.input("image_index", TensorProto.INT64, ["N"]),
        graph.input("image_of", TensorProto.INT64, ["N"]),
        graph.input("keep_counts", TensorProto.INT64, ["I"]),
    ]
    names = ("gathered", "gathered_position_ids", "keep_indices")
    rows, positions, keep = graph.call(token_gather(), inputs, names, **PLUGIN)
    graph.output(rows, dtype, ["B", "R", "H"])
    graph.output(positions, TensorProto.INT64, ["A", "B", "R"])
    graph.output(keep, TensorProto.INT64, ["T"])
    return graph.model().SerializeToString()


class Bound(NamedTuple):
    """A session with inputs and outputs bound, so that a run is the op and little else."""

    session: onnxruntime.InferenceSession
    binding: onnxruntime.IOBinding

    def run(self) -> None:
        self.session.run_with_iobinding(self.binding)

    def outputs(self) -> list[bytes]:
        self.run()
        return [output.tobytes() for output in self.binding.copy_outputs_to_cpu()]


def bind(serialized: bytes, library: Path | None, given: dict[str, np.ndarray], threads: int = 1) -> Bound:
    """Returns a session, with the library's op where one is given."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if library is not None:
        options.register_custom_ops_library(os.fspath(library))
    session = onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in given.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    for output, array in zip(session.get_outputs(), session.run(None, given), strict=True):
        held = onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(array))
        binding.bind_ortvalue_output(output.name, held)
    return Bound(session, binding)


def inputs(shape: Shape, dtype: type) -> dict[str, np.ndarray]:
    """Returns random rows and scores; the images stand one after another in the middle of the text."""
    random = np.random.default_rng(0)
    tokens = shape.images * shape.tokens
    rows = tokens + shape.text
    return {
        "hidden": random.standard_normal((1, rows, shape.hidden), np.float32).astype(dtype),
        "position_ids": np.arange(rows)[None, None],
        "scores": random.standard_normal(tokens).astype(np.float32),
        "image_index": np.arange(tokens) + shape.text // 2,
        "image_of": np.repeat(np.arange(shape.images), shape.tokens),
        "keep_counts": np.full(shape.images, shape.k),
    }


def fastest(bound: Bound) -> float:
    """Returns the time of the fastest of some runs, since other work on the machine only ever adds time."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        bound.run()
        times.append(time.perf_counter() - start)
    return min(times)


def ratios(op: Bound, function: Bound, rounds: int) -> np.ndarray:
    """Returns op / function of each round; who goes first changes."""
    found = []
    for number in range(rounds):
        if number % 2:
            time_of_op, time_of_function = fastest(op), fastest(function)
        else:
            time_of_function, time_of_op = fastest(function), fastest(op)
        found.append(time_of_op / time_of_function)
    return np.array(found)


def main(argv: list[str] | None = None) -> int:
    """Measures, and prints a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, help="default: the installed one (allrounder.native)")
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args(argv)
    library = arguments.library or require("ort_ops")
    results = []
    for shape in SHAPES:
        for name, (element, dtype) in DTYPES.items():
            given, serialized = inputs(shape, dtype), model(element)
            op, function = bind(serialized, library, given), bind(serialized, None, given)
            if op.outputs() != function.outputs():
                print(f"{shape} {name}: the op and the function differ", file=sys.stderr)
                return 1
            low, median, high = np.percentile(ratios(op, function, arguments.rounds), (5, 50, 95))
            results.append(shape._asdict() | {"precision": name, "ratio": round(float(median), 3)})
            size = f"{shape.images} x {shape.k} of {shape.tokens}, {shape.text} of text, H={shape.hidden}, {name}"
            print(f"{size}: {median:.2f} ({low:.2f} to {high:.2f})")
    summary = {"benchmark": "native_op", "onnxruntime": onnxruntime.__version__, "results": results}
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
