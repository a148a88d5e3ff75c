"""Models of one gather, and sessions over them with and without the native op.

What it is: the exporter's function around inputs, in each dtype; bfloat16, which numpy has not, goes in and out as
float32. What it does not know: what is right.
"""

import os
from functools import cache
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

from allrounder.export.graph.gather import PLUGIN, token_gather
from allrounder.export.graph.writer import GraphWriter

DTYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
ODD = (float("nan"), float("-inf"), float("inf"), -1.5, -0.0, 0.0, 1.0, 1.0000001, 3.0e38)


def gather_model(k: int, dtype: str = "float32") -> onnx.ModelProto:
    """Returns a model whose inputs and outputs are those of the op."""
    outside = TensorProto.FLOAT if dtype == "bfloat16" else DTYPES[dtype]
    graph = GraphWriter("gather", {}, DTYPES[dtype])
    hidden = graph.input("hidden", outside, ["B", "N", "H"])
    scores = graph.input("scores", TensorProto.FLOAT, ["B", "N"])
    positions = graph.input("positions", TensorProto.INT64, ["B", "N"])
    inside = graph.node("Cast", [hidden], "inside", to=DTYPES[dtype])
    rows, kept, keep = graph.call(token_gather(), [inside, scores, positions], ("rows", "kept", "keep"), k=k, **PLUGIN)
    graph.output("gathered", outside, ["B", k, "H"], graph.node("Cast", [rows], "outside", to=outside))
    graph.output("gathered_positions", TensorProto.INT64, ["B", k], kept)
    graph.output("keep", TensorProto.INT64, ["B", k], keep)
    return graph.model()


def session(model: onnx.ModelProto | Path, library: Path | None, *, optimized: Path | None = None):
    """Returns a session on one CPU thread, with the library's op where one is given."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, too
    options.intra_op_num_threads = 1
    if library is not None:
        options.register_custom_ops_library(str(library))
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


@cache
def gather_session(k: int, dtype: str = "float32", library: Path | None = None):
    """Returns the session of a model of its own, made once."""
    return session(gather_model(k, dtype), library)


def feeds(scores: np.ndarray, hidden: int, dtype: str = "float32", seed: int = 0) -> dict[str, np.ndarray]:
    """Returns inputs whose rows and positions are all different."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((*scores.shape, hidden))
    return {
        "hidden": rows.astype(np.float16 if dtype == "float16" else np.float32),
        "scores": scores.astype(np.float32),
        "positions": random.integers(-(2**60), 2**60, scores.shape),
    }


def draw_scores(kind: str, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Returns scores of a kind: random, tied (few values) or odd (NaN, infinities, zeros of both signs)."""
    random = np.random.default_rng(seed)
    if kind == "odd":
        return random.choice(np.array(ODD, np.float32), shape)
    return random.integers(-2, 3, shape) if kind == "tied" else random.standard_normal(shape)


def expected(given: dict[str, np.ndarray], k: int) -> list[np.ndarray]:
    """Returns the outputs by the rule: best first, ties to the lower index, NaN as -inf, the first k ascending."""
    clean = np.where(np.isnan(given["scores"]), -np.inf, given["scores"])
    keep = np.sort(np.argsort(-clean, axis=1, kind="stable")[:, :k], axis=1)
    rows = np.take_along_axis(given["hidden"], keep[..., None], axis=1)
    return [rows, np.take_along_axis(given["positions"], keep, axis=1), keep]
