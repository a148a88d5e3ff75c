"""Models of one gather, and sessions over them with and without the native op.

What it is: the exporter's function around inputs, in each dtype; bfloat16, which numpy has not, goes in and out as
float32. What it does not know: what is right.
"""

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

from allrounder.export.graph.gather import PLUGIN, token_gather
from allrounder.export.graph.writer import GraphWriter

DTYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
ODD = (float("nan"), float("-inf"), float("inf"), -1.5, -0.0, 0.0, 1.0, 1.0000001, 3.0e38)


class Prompt(NamedTuple):
    """One call's sizes: N_i and T_i of each image, text rows among them, H, A and B."""

    tokens_of: tuple[int, ...]
    keep_counts: tuple[int, ...]
    text: int = 5
    hidden: int = 3
    axes: int = 1
    batch: int = 1

    @property
    def tokens(self) -> int:
        """N."""
        return sum(self.tokens_of)


def gather_model(dtype: str = "float32") -> onnx.ModelProto:
    """Returns a model whose inputs and outputs are those of the op."""
    outside = TensorProto.FLOAT if dtype == "bfloat16" else DTYPES[dtype]
    graph = GraphWriter("gather", {}, DTYPES[dtype])
    hidden = graph.input("hidden", outside, ["B", "S", "H"])
    position_ids = graph.input("position_ids", TensorProto.INT64, ["A", "B", "S"])
    scores = graph.input("scores", TensorProto.FLOAT, ["N"])
    index = [graph.input(name, TensorProto.INT64, ["N"]) for name in ("image_index", "image_of")]
    counts = graph.input("keep_counts", TensorProto.INT64, ["I"])
    inside = graph.node("Cast", [hidden], "inside", to=DTYPES[dtype])
    outputs = ("rows", "kept_positions", "keep")
    graph.call(token_gather(), [inside, position_ids, scores, *index, counts], outputs, **PLUGIN)
    graph.output("gathered", outside, ["B", "R", "H"], graph.node("Cast", ["rows"], "outside", to=outside))
    graph.output("gathered_position_ids", TensorProto.INT64, ["A", "B", "R"], "kept_positions")
    graph.output("keep_indices", TensorProto.INT64, ["T"], "keep")
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
def gather_session(dtype: str = "float32", library: Path | None = None):
    """Returns the session of a model of its own, made once."""
    return session(gather_model(dtype), library)


def feeds(prompt: Prompt, scores: np.ndarray, dtype: str = "float32", seed: int = 0) -> dict[str, np.ndarray]:
    """Returns inputs whose rows and positions are all different, image tokens in any rows, images mixed."""
    random = np.random.default_rng(seed)
    rows = prompt.tokens + prompt.text
    hidden = random.standard_normal((prompt.batch, rows, prompt.hidden))
    return {
        "hidden": hidden.astype(np.float16 if dtype == "float16" else np.float32),
        "position_ids": random.integers(-(2**60), 2**60, (prompt.axes, prompt.batch, rows)),
        "scores": scores.astype(np.float32),
        "image_index": np.sort(random.permutation(rows)[: prompt.tokens]),
        "image_of": random.permutation(np.repeat(np.arange(len(prompt.tokens_of)), prompt.tokens_of)),
        "keep_counts": np.array(prompt.keep_counts, np.int64),
    }


def draw_scores(kind: str, tokens: int, seed: int = 0) -> np.ndarray:
    """Returns scores of a kind: random, tied (few values) or odd (NaN, infinities, zeros of both signs)."""
    random = np.random.default_rng(seed)
    if kind == "odd":
        return random.choice(np.array(ODD, np.float32), tokens)
    return random.integers(-2, 3, tokens) if kind == "tied" else random.standard_normal(tokens)


def expected(given: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Returns the outputs by the rule: per image best first, ties to the lower index, NaN as -inf; ascending."""
    clean = np.where(np.isnan(given["scores"]), -np.inf, given["scores"])
    best = np.argsort(-clean, kind="stable")
    ranked = [best[given["image_of"][best] == image][:count] for image, count in enumerate(given["keep_counts"])]
    keep = np.sort(np.concatenate([np.zeros(0, np.int64), *ranked]))
    dropped = np.delete(given["image_index"], keep)
    return [np.delete(given["hidden"], dropped, 1), np.delete(given["position_ids"], dropped, 2), keep]
