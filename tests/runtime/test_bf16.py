"""bfloat16 goes from graph to graph, and through caches that grow in place, without numpy, which does not have it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from prunings import pruning

from allrounder.engines.options import EngineOptions
from allrounder.engines.sessions import BFLOAT16, backend
from allrounder.runtime.cache import Clocks, Pool

BF16, F32, I64 = TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.INT64
OPTIONS = EngineOptions(threads=1)
VALUES = np.array([1.0, -2.5, 2.0**127, 1 + 2**-7, 0.0, -0.0], np.float32)  # as bfloat16 has them


@pytest.fixture(params=["onnxruntime", "openvino"])
def opened(request, tmp_path):
    """Opens a graph of these nodes in a backend."""

    def open_graph(nodes, inputs, outputs):
        ports = [
            [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in each]
            for each in (inputs, outputs)
        ]
        graph = helper.make_graph(nodes, "g", *ports)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.onnx"
        onnx.save(model, path)
        return backend(request.param).open_session(path, OPTIONS)

    return open_graph


def test_from_graph_to_graph(opened):
    node = helper.make_node
    down = opened([node("Cast", ["x"], ["y"], to=BF16)], [("x", F32, ["n"])], [("y", BF16, ["n"])])
    up = opened([node("Cast", ["y"], ["z"], to=F32)], [("y", BF16, ["n"])], [("z", F32, ["n"])])
    between = down.run({"x": VALUES})["y"]
    assert between.shape() == [len(VALUES)]
    assert up.run({"y": between})["z"].numpy().tobytes() == VALUES.tobytes()


def test_caches_grow_in_place(opened):
    """A new number goes to where the clock points; logits tell what the whole cache holds."""
    node, constant = helper.make_node, helper.make_tensor
    nodes = [
        node("Cast", ["input_ids"], ["new"], to=BF16),
        node("Constant", [], ["last"], value=constant("l", I64, [1], [-1])),
        node("Constant", [], ["wide"], value=constant("w", I64, [3], [1, 1, -1])),
        node("Constant", [], ["one"], value=constant("o", I64, [4], [1, 1, 1, 1])),
        node("Reshape", ["slots", "last"], ["slot"]),
        node("Constant", [], ["zeros"], value=constant("z", I64, [2], [0, 0])),
        node("Concat", ["zeros", "slot"], ["where"], axis=0),
        node("Constant", [], ["row"], value=constant("r", I64, [4], [1, 1, 1, 3])),
        node("Reshape", ["where", "row"], ["place"]),
        node("Reshape", ["new", "one"], ["update"]),
        node("ScatterND", ["cache_key.0", "place", "update"], ["cache_key_out.0"]),
        node("Cast", ["cache_key_out.0"], ["held"], to=F32),
        node("Reshape", ["held", "wide"], ["logits"]),
    ]
    shape = [1, 1, "C", 1]
    inputs = [
        ("input_ids", I64, [1, 1]),
        ("slots", I64, [1]),
        ("image_embeds", F32, ["N", 1]),
        ("cache_key.0", BF16, shape),
    ]
    decoder = opened(nodes, inputs, [("logits", F32, [1, 1, 6]), ("cache_key_out.0", BF16, shape)])
    pool = Pool(decoder, pruning((1, 1), 0, (0,)), 1, 6)
    feeds = {"input_ids": np.array([[5]]), "image_embeds": np.zeros((0, 1), np.float32)}
    first = pool.prefill(feeds, Clocks(2, 2, 2, 4))["logits"].numpy().reshape(-1)
    held = np.zeros(6, np.float32)
    held[0] = 5
    assert first.tobytes() == held.tobytes()
    for place, number in ((2, 7), (3, -2), (4, 9)):
        held[place] = number
        assert pool.advance([[number]])[0, 0].tobytes() == held.tobytes()
    assert pool.numbers == 6


def test_an_empty_cache_passes(opened):
    node = helper.make_node
    same = opened([node("Identity", ["x"], ["y"])], [("x", BF16, [1, "n"])], [("y", BF16, [1, "n"])])
    make = opened([node("Cast", ["x"], ["y"], to=BF16)], [("x", F32, [1, "n"])], [("y", BF16, [1, "n"])])
    empty = make.run({"x": np.zeros((1, 0), np.float32)})["y"]
    assert same.run({"x": empty})["y"].shape() == [1, 0]
    same.bind({"x": empty}, {"y": empty}).run()


def test_where_it_is_an_array_it_is_opaque():
    assert BFLOAT16.itemsize == 2
    with pytest.raises(TypeError):
        np.zeros(3, BFLOAT16) + np.zeros(3, BFLOAT16)
