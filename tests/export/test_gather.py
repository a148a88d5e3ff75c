"""The gather function: declared once, and equal to a plain numpy rule under ties, NaN and every budget."""

import functools
import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from allrounder.engines.graphs.flat import flat as flattened
from allrounder.export.graph.gather import PLUGIN, token_gather
from allrounder.export.graph.writer import IR_VERSION, OPSET, GraphWriter
from allrounder.gather import TOKEN_GATHER

VALUES = (float("nan"), float("-inf"), float("inf"), -1.5, -0.0, 0.0, 1.0, 1.0000001, 3.0e38)


def reference(scores, k):
    """Best k per row: highest first, ties to the lower index, NaN as -inf; then ascending."""
    keep = []
    for row in scores:
        clean = [float("-inf") if np.isnan(value) else float(value) for value in row]
        keep.append(sorted(sorted(range(len(clean)), key=lambda index: (-clean[index], index))[:k]))
    return np.array(keep)


def model(k, dtype=TensorProto.FLOAT):
    graph = GraphWriter("gather", {}, dtype)
    inputs = [
        graph.input("hidden", dtype, ["B", "N", "H"]),
        graph.input("scores", TensorProto.FLOAT, ["B", "N"]),
        graph.input("positions", TensorProto.INT64, ["B", "N"]),
    ]
    rows, positions, keep = graph.call(token_gather(), inputs, ("rows", "kept_positions", "keep"), k=k, **PLUGIN)
    graph.output("rows", dtype, ["B", k, "H"], rows)
    graph.output("kept_positions", TensorProto.INT64, ["B", k], positions)
    graph.output("keep", TensorProto.INT64, ["B", k], keep)
    return graph.model()


@functools.cache
def session(k, dtype=TensorProto.FLOAT, flat=False):
    written = flattened(model(k, dtype)) if flat else model(k, dtype)
    onnx.checker.check_model(written, full_check=True)
    return onnxruntime.InferenceSession(written.SerializeToString(), providers=["CPUExecutionProvider"])


@st.composite
def cases(draw):
    batch, tokens = draw(st.integers(1, 3)), draw(st.integers(1, 12))
    values = st.lists(st.sampled_from(VALUES), min_size=tokens, max_size=tokens)
    scores = [draw(values) for _ in range(batch)]
    k = draw(st.one_of(st.just(1), st.just(tokens), st.integers(1, tokens)))
    return np.array(scores, np.float32), k


@settings(max_examples=150, deadline=None)
@given(cases(), st.booleans())
def test_function_equals_the_rule(case, flat):
    scores, k = case
    batch, tokens = scores.shape
    hidden = np.arange(batch * tokens * 3, dtype=np.float32).reshape(batch, tokens, 3)
    positions = np.arange(tokens)[None] * 7 + np.arange(batch)[:, None]
    found = session(k, flat=flat).run(None, {"hidden": hidden, "scores": scores, "positions": positions})
    keep = reference(scores, k)
    assert found[2].tolist() == keep.tolist()
    assert np.array_equal(found[0], np.take_along_axis(hidden, keep[..., None], axis=1))
    assert np.array_equal(found[1], np.take_along_axis(positions, keep, axis=1))


def test_half_precision_rows_are_moved_unchanged():
    hidden = np.random.default_rng(0).standard_normal((2, 6, 4)).astype(np.float16)
    scores = np.array([[1, 5, 2, 5, 0, 5], [0, 0, 0, 0, 0, 0]], np.float32)
    positions = np.tile(np.arange(6), (2, 1))
    feeds = {"hidden": hidden, "scores": scores, "positions": positions}
    rows, kept, keep = session(2, TensorProto.FLOAT16).run(None, feeds)
    assert keep.tolist() == kept.tolist() == [[1, 3], [0, 1]]
    assert np.array_equal(rows, np.take_along_axis(hidden, keep[..., None], axis=1))


def test_function_is_the_one_that_is_declared():
    function = token_gather()
    assert (function.domain, function.name) == (TOKEN_GATHER.domain, TOKEN_GATHER.name)
    assert list(function.input) == [tensor.name for tensor in TOKEN_GATHER.inputs]
    assert list(function.output) == [tensor.name for tensor in TOKEN_GATHER.outputs]
    assert list(function.attribute) == list(TOKEN_GATHER.attributes)


def test_rows_are_never_gathered_by_element():
    assert "GatherElements" not in {node.op_type for node in token_gather().node}
    sorts = [node for node in token_gather().node if node.op_type == "TopK"]
    assert [helper.get_node_attr_value(node, "sorted") for node in sorts] == [1, 1]


def test_node_carries_what_tensorrt_looks_for():
    (call,) = [node for node in model(3).graph.node if node.op_type == TOKEN_GATHER.name]
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in call.attribute}
    assert values == {"k": 3, "plugin_namespace": b"allrounder", "plugin_version": b"1"}


def test_flat_flat_copy_has_standard_ops_only():
    flat = flattened(model(3))
    assert not flat.functions
    assert {node.domain for node in flat.graph.node} == {""}
    assert [(opset.domain, opset.version) for opset in flat.opset_import] == [("", OPSET)]
    assert flat.ir_version == IR_VERSION


def test_more_tokens_than_there_are_is_refused_by_the_backend():
    feeds = {
        "hidden": np.zeros((1, 2, 1), np.float32),
        "scores": np.zeros((1, 2), np.float32),
        "positions": np.zeros((1, 2), np.int64),
    }
    with pytest.raises(Exception, match="k"):
        session(3).run(None, feeds)
