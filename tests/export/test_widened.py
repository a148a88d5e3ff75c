"""A widened bfloat16 graph rounds where bfloat16 arithmetic does; what is coarse by its size is not called wrong."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from allrounder.errors import GraphInvalid, VerificationFailed
from allrounder.export.graph.gather import token_gather
from allrounder.export.graph.writer import GraphWriter, Placed
from allrounder.export.verify.compare import Comparison
from allrounder.export.verify.extract import run
from allrounder.export.weights.widened import widened

BF16, F32, I64 = TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.INT64
GENERATOR = np.random.default_rng(0)


def rows(*shape):
    return torch.from_numpy(GENERATOR.standard_normal(shape, np.float32)).bfloat16()


def ran(graph, feeds, folder=None):
    return run(widened(graph.model()), {name: value.float().numpy() for name, value in feeds.items()}, folder)


def test_each_step_is_rounded():
    """Bit for bit what torch gives; rounded once at the end, most numbers would be others."""
    graph, a, b = GraphWriter("g", {}, BF16), rows(64, 64), rows(64, 64)
    for name in "ab":
        graph.input(name, BF16, [64, 64])
    product = graph.node("Mul", ["a", "b"], "product")
    total = graph.node("Add", [product, graph.number(1.5)], "total")
    graph.output("out", BF16, [64, 64], graph.node("Sub", [total, "a"], "difference"))
    found = torch.from_numpy(ran(graph, {"a": a, "b": b})["out"])
    assert torch.equal(found, (a * b + 1.5 - a).float())
    once = (a.float() * b.float() + 1.5 - a.float()).bfloat16().float()
    assert (found != once).float().mean() > 0.2


def test_inner_values_stay_exact_where_the_op_keeps_them():
    """The mean of the norm is taken in float32: in bfloat16 this sum would not move beyond 256."""
    graph = GraphWriter("g", {}, BF16)
    graph.input("x", BF16, [1, 4096])
    graph.input("w", BF16, [4096])
    graph.output("out", BF16, [1, 4096], graph.node("RMSNormalization", ["x", "w"], "norm", axis=-1, epsilon=0.0))
    ones = torch.ones(1, 4096, dtype=torch.bfloat16)
    assert ran(graph, {"x": ones, "w": ones[0]})["out"].tolist() == ones.tolist()


def test_weights_stay_in_their_file_and_branches_are_widened(tmp_path):
    table = rows(6, 4)
    (tmp_path / "w.bin").write_bytes(table.view(torch.int16).numpy().tobytes())
    graph = GraphWriter("g", {"table": Placed("w.bin", 0, 48, BF16, (6, 4))}, BF16)
    graph.input("chosen", TensorProto.BOOL, [])
    graph.input("x", BF16, [6, 4])

    def body(inner):
        return [inner.node("Add", ["x", inner.weight("table")], "sum")]

    def skip(inner):
        return [inner.node("Identity", ["x"], "same")]

    (value,) = graph.choose("chosen", body, skip, ("value",))
    graph.output("out", BF16, [6, 4], value)
    wide = widened(graph.model())
    assert [tensor.data_type for tensor in wide.graph.initializer] == [BF16]
    x = rows(6, 4)
    for chosen, wanted in ((True, x + table), (False, x)):
        found = run(wide, {"x": x.float().numpy(), "chosen": np.array(chosen)}, tmp_path)["out"]
        assert torch.equal(torch.from_numpy(found), wanted.float())


def test_the_gather_keeps_its_names_and_float32_scores():
    graph = GraphWriter("g", {}, BF16)
    given = {"hidden": (BF16, [1, 5, 2]), "position_ids": (I64, [1, 1, 5]), "scores": (F32, [5])}
    given |= {"image_index": (I64, [5]), "image_of": (I64, [5]), "keep_counts": (I64, [1])}
    for name, (dtype, shape) in given.items():
        graph.input(name, dtype, shape)
    outputs = graph.call(token_gather(), list(given), ("kept", "kept_positions", "keep"))
    for name, dtype, shape in zip(outputs, (BF16, I64, I64), ([1, "R", 2], [1, 1, "R"], ["T"]), strict=True):
        graph.output(name, dtype, shape)
    hidden = rows(1, 5, 2)
    scores = np.array([1.0, 1.0 + 2**-20, np.nan, 1.0 + 2**-19, 0.0], np.float32)  # all 1 in bfloat16
    feeds = {"hidden": hidden.float().numpy(), "scores": scores, "position_ids": np.arange(5)[None, None]}
    feeds |= {"image_index": np.arange(5), "image_of": np.zeros(5, np.int64), "keep_counts": np.array([2])}
    found = run(widened(graph.model()), feeds, None)
    assert found["keep"].tolist() == [1, 3]
    assert torch.equal(torch.from_numpy(found["kept"]), hidden[:, [1, 3]].float())


def test_a_graph_without_bfloat16_stays_as_it_is():
    graph = GraphWriter("g", {}, F32)
    graph.input("x", F32, [1])
    graph.output("out", F32, [1], graph.node("Neg", ["x"], "negated"))
    model = graph.model()
    assert widened(model) is model


def test_a_value_of_unknown_type_is_refused():
    graph = GraphWriter("g", {}, BF16)
    graph.input("x", BF16, [1])
    made = helper.make_node("Unheard", ["x"], ["y"], domain="example")
    model = graph.model()
    model.opset_import.append(helper.make_opsetid("example", 1))
    model.graph.node.append(made)
    with pytest.raises(GraphInvalid, match="y"):
        widened(model)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_is_large_may_be_as_coarse(tmp_path, precision):
    """A language model's few huge values, off by one step, are many deviations of all others away."""
    comparison = Comparison(tmp_path, precision)
    reference = rows(1, 10_000).float()
    reference[0, 7] = 2000.0
    deviation = float(reference.std())
    step = 2000.0 * 2**-8
    off = reference.clone()
    off[0, 7] += step if precision == "bf16" else step / 8
    comparison.outputs("g", {"rows": off.numpy()}, {"rows": reference})
    off = reference.clone()
    off[0, 8] += 0.5 * deviation  # an ordinary value
    with pytest.raises(VerificationFailed, match="rows"):
        comparison.outputs("g", {"rows": off.numpy()}, {"rows": reference})
