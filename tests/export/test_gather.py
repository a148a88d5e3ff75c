"""The gather function: declared once, and equal to a plain rule under ties, NaN, several images and every budget."""

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


def reference(scores, image_of, counts):
    """Best of each image: highest first, ties to the lower index, NaN as -inf; then ascending."""
    clean = [float("-inf") if np.isnan(value) else float(value) for value in scores]
    keep = []
    for image, count in enumerate(counts):
        own = [index for index, of in enumerate(image_of) if of == image]
        keep += sorted(sorted(own, key=lambda index: (-clean[index], index))[:count])
    return sorted(keep)


def model(dtype=TensorProto.FLOAT):
    graph = GraphWriter("gather", {}, dtype)
    inputs = [
        graph.input("hidden", dtype, ["B", "S", "H"]),
        graph.input("position_ids", TensorProto.INT64, ["A", "B", "S"]),
        graph.input("scores", TensorProto.FLOAT, ["N"]),
        graph.input("image_index", TensorProto.INT64, ["N"]),
        graph.input("image_of", TensorProto.INT64, ["N"]),
        graph.input("keep_counts", TensorProto.INT64, ["I"]),
    ]
    rows, positions, keep = graph.call(token_gather(), inputs, ("rows", "kept_positions", "keep"), **PLUGIN)
    graph.output("rows", dtype, ["B", "R", "H"], rows)
    graph.output("kept_positions", TensorProto.INT64, ["A", "B", "R"], positions)
    graph.output("keep", TensorProto.INT64, ["T"], keep)
    return graph.model()


@functools.cache
def session(dtype=TensorProto.FLOAT, flat=False):
    written = flattened(model(dtype)) if flat else model(dtype)
    onnx.checker.check_model(written, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(written.SerializeToString(), options, providers=["CPUExecutionProvider"])


@st.composite
def cases(draw):
    """Scores by image, how many of each stay, and how much text stands before each image and at the end."""
    values = st.lists(st.sampled_from(VALUES), min_size=1, max_size=9)
    images = draw(st.lists(values, max_size=3))
    counts = [draw(st.one_of(st.just(1), st.just(len(each)), st.integers(1, len(each)))) for each in images]
    return images, counts, [draw(st.integers(0, 3)) for _ in images] + [draw(st.integers(1, 3))]


def placed(images, texts):
    """Returns where image tokens stand, whose they are, and the number of rows."""
    index, of, rows = [], [], 0
    for image, (scores, text) in enumerate(zip(images, texts, strict=False)):
        rows += text
        index += range(rows, rows + len(scores))
        of += [image] * len(scores)
        rows += len(scores)
    return index, of, rows + texts[-1]


@settings(max_examples=150, deadline=None)
@given(cases(), st.booleans())
def test_function_equals_the_rule(case, flat):
    images, counts, texts = case
    index, of, rows = placed(images, texts)
    scores = [score for image in images for score in image]
    hidden = np.arange(rows * 3, dtype=np.float32).reshape(1, rows, 3)
    positions = np.stack([np.arange(rows) * 7, np.arange(rows) * 11])[:, None]
    feeds = {
        "hidden": hidden,
        "position_ids": positions,
        "scores": np.array(scores, np.float32),
        "image_index": np.array(index, np.int64),
        "image_of": np.array(of, np.int64),
        "keep_counts": np.array(counts, np.int64),
    }
    found = session(flat=flat).run(None, feeds)
    keep = reference(scores, of, counts)
    stay = sorted({*range(rows)} - {*index} | {index[token] for token in keep})
    assert found[2].tolist() == keep
    assert np.array_equal(found[0], hidden[:, stay])
    assert np.array_equal(found[1], positions[..., stay])


def test_new_tokens_of_a_batch_all_stay():
    hidden = np.random.default_rng(0).standard_normal((3, 2, 4)).astype(np.float32)
    positions = np.arange(6).reshape(1, 3, 2)
    none = np.zeros(0, np.int64)
    feeds = {"hidden": hidden, "position_ids": positions, "scores": np.zeros(0, np.float32)}
    feeds |= dict.fromkeys(("image_index", "image_of", "keep_counts"), none)
    for flat in (False, True):
        rows, kept, keep = session(flat=flat).run(None, feeds)
        assert np.array_equal(rows, hidden)
        assert np.array_equal(kept, positions)
        assert keep.tolist() == []


def _rank_equals_topk(cases, seed):
    """Compares the function with ONNX's TopK: 25 images of 8 tokens at a time, each image a case."""
    tokens, images = 8, 25
    helper_inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [images, tokens])]
    outputs = [helper.make_tensor_value_info("best", TensorProto.INT64, [images, tokens])]
    count = helper.make_tensor("k", TensorProto.INT64, [1], [tokens])
    node = helper.make_node("TopK", ["x", "k"], ["values", "best"], largest=1, sorted=1)
    graph = helper.make_graph([node], "topk", helper_inputs, outputs, [count])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    topk = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    draw = np.random.default_rng(seed)
    index, of = np.arange(images * tokens), np.repeat(np.arange(images), tokens)
    hidden = np.zeros((1, images * tokens, 1), np.float32)
    feeds = {
        "hidden": hidden,
        "position_ids": np.arange(images * tokens)[None, None],
        "image_index": index,
        "image_of": of,
    }
    for _ in range(cases // images):
        scores = draw.choice(np.array(VALUES, np.float32), (images, tokens))
        scores[::2] = draw.integers(0, 4, scores[::2].shape)  # half of them ties without odd values
        counts = draw.integers(1, tokens + 1, images)
        (best,) = topk.run(["best"], {"x": np.where(np.isnan(scores), -np.inf, scores).astype(np.float32)})
        stays = np.zeros((images, tokens), bool)
        np.put_along_axis(stays, best, np.arange(tokens) < counts[:, None], axis=1)
        (keep,) = session().run(["keep"], {**feeds, "scores": scores.reshape(-1), "keep_counts": counts})
        assert np.array_equal(keep, np.flatnonzero(stays))


def test_rank_equals_topk():
    _rank_equals_topk(50_000, seed=1)


@pytest.mark.slow
def test_rank_equals_topk_a_million_times():
    _rank_equals_topk(1_000_000, seed=2)


def test_half_precision_rows_are_moved_unchanged():
    hidden = np.random.default_rng(0).standard_normal((1, 6, 4)).astype(np.float16)
    feeds = {
        "hidden": hidden,
        "position_ids": np.arange(6)[None, None],
        "scores": np.array([1, 5, 2, 5], np.float32),
        "image_index": np.arange(1, 5),
        "image_of": np.zeros(4, np.int64),
        "keep_counts": np.array([2]),
    }
    rows, kept, keep = session(TensorProto.FLOAT16).run(None, feeds)
    assert keep.tolist() == [1, 3]
    assert kept[0, 0].tolist() == [0, 2, 4, 5]
    assert np.array_equal(rows, hidden[:, [0, 2, 4, 5]])


def test_function_is_the_one_that_is_declared():
    function = token_gather()
    assert (function.domain, function.name) == (TOKEN_GATHER.domain, TOKEN_GATHER.name)
    assert list(function.input) == [tensor.name for tensor in TOKEN_GATHER.inputs]
    assert list(function.output) == [tensor.name for tensor in TOKEN_GATHER.outputs]
    assert list(function.attribute) == list(TOKEN_GATHER.attributes)


def test_node_carries_what_tensorrt_looks_for():
    (call,) = [node for node in model().graph.node if node.op_type == TOKEN_GATHER.name]
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in call.attribute}
    assert values == {"plugin_namespace": b"allrounder", "plugin_version": b"1"}


def test_flat_copy_has_standard_ops_only():
    flat = flattened(model())
    assert not flat.functions
    assert {node.domain for node in flat.graph.node} == {""}
    assert [(opset.domain, opset.version) for opset in flat.opset_import] == [("", OPSET)]
    assert flat.ir_version == IR_VERSION
