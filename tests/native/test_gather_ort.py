"""The native op in ONNX Runtime: the same file gives the same bits with and without it, and it says what is wrong."""

import numpy as np
import onnx
import pytest
from gather_models import DTYPES, ODD, draw_scores, expected, feeds, gather_model, gather_session, session
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

SHAPES = [  # batch, tokens, k, hidden
    (1, 1, 1, 3),
    (1, 7, 7, 1),
    (2, 20, 1, 9),
    (3, 33, 12, 16),
    (1, 576, 144, 64),
    (2, 300, 299, 5),
    (0, 4, 2, 3),
    (2, 4, 2, 0),
]


@pytest.fixture(scope="session")
def library(program):
    return program("liballrounder_ort_ops.so")


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(
            one.view(np.uint8) if one.size else one, other.view(np.uint8) if other.size else other
        )


@pytest.mark.parametrize("kind", ["random", "tied", "odd"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_op_equals_function_bit_for_bit(library, shape, dtype, kind):
    batch, tokens, k, hidden = shape
    given_ = feeds(draw_scores(kind, (batch, tokens)), hidden, dtype)
    found = gather_session(k, dtype, library).run(None, given_)
    assert_same(found, gather_session(k, dtype).run(None, given_))
    if dtype != "bfloat16":  # whose rows are rounded on their way in
        assert_same(found, expected(given_, k))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_op_equals_the_rule(library, data):
    batch, tokens = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 12))
    values = st.lists(st.sampled_from(ODD), min_size=tokens, max_size=tokens)
    scores = np.array([data.draw(values) for _ in range(batch)], np.float32)
    k = data.draw(st.one_of(st.just(1), st.just(tokens), st.integers(1, tokens)))
    given_ = feeds(scores, 3)
    assert_same(gather_session(k, "float32", library).run(None, given_), expected(given_, k))


@pytest.mark.parametrize("dtype", DTYPES)
def test_op_wins_over_the_function(library, dtype, tmp_path):
    session(gather_model(3, dtype), library, optimized=tmp_path / "with.onnx")
    session(gather_model(3, dtype), None, optimized=tmp_path / "without.onnx")
    nodes = {
        name: [(node.domain, node.op_type) for node in onnx.load(tmp_path / f"{name}.onnx").graph.node]
        for name in ("with", "without")
    }
    assert ("allrounder", "TokenGather") in nodes["with"]
    assert "TopK" not in {op for _, op in nodes["with"]}
    assert ("allrounder", "TokenGather") not in nodes["without"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_are_inferred_and_symbols_kept(library, dtype):
    model = gather_model(3, dtype)
    del model.graph.output[:]
    for name in ("rows", "gathered_positions", "keep"):  # of the node itself, and nothing said of their types
        model.graph.output.append(helper.make_empty_tensor_value_info(name))
    element = {"float32": "tensor(float)", "float16": "tensor(float16)", "bfloat16": "tensor(bfloat16)"}[dtype]
    found = [(each.name, each.type, each.shape) for each in session(model, library).get_outputs()]
    assert found == [
        ("rows", element, ["B", 3, "H"]),
        ("gathered_positions", "tensor(int64)", ["B", 3]),
        ("keep", "tensor(int64)", ["B", 3]),
    ]


def test_no_token_to_keep_is_refused_at_load(library):
    with pytest.raises(Exception, match="no token would be kept; got: k = 0; wanted: k of at least 1"):
        session(gather_model(0), library)


def test_missing_budget_is_refused_at_load(library):
    model = gather_model(2)
    (node,) = [node for node in model.graph.node if node.op_type == "TokenGather"]
    node.attribute.remove(next(each for each in node.attribute if each.name == "k"))
    with pytest.raises(Exception, match="k"):
        session(model, library)


@pytest.mark.parametrize(
    ("hidden", "scores", "positions", "says"),
    [
        ((1, 2, 3), (1, 2), (1, 2), "more tokens to keep than there are; got: k = 3 of N = 2; wanted: 1 <= k <= N"),
        ((1, 0, 3), (1, 0), (1, 0), "got: k = 3 of N = 0"),
        ((1, 4, 3), (1, 5), (1, 4), r"scores do not fit hidden \[1, 4, 3\]; got: \[1, 5\]; wanted: \[1, 4\]"),
        ((2, 4, 3), (1, 4), (2, 4), r"scores do not fit hidden \[2, 4, 3\]; got: \[1, 4\]; wanted: \[2, 4\]"),
        ((1, 4, 3), (1, 4), (1, 3), r"positions do not fit hidden \[1, 4, 3\]; got: \[1, 3\]; wanted: \[1, 4\]"),
    ],
)
def test_impossible_shapes_are_named(library, hidden, scores, positions, says):
    given_ = {
        "hidden": np.zeros(hidden, np.float32),
        "scores": np.zeros(scores, np.float32),
        "positions": np.zeros(positions, np.int64),
    }
    with pytest.raises(Exception, match=says):
        gather_session(3, "float32", library).run(None, given_)


def test_wrong_rank_is_named(library):
    model = gather_model(2)
    model.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 2
    given_ = feeds(np.zeros((1, 4)), 3) | {"hidden": np.zeros((1, 4, 3, 2), np.float32)}
    with pytest.raises(Exception, match=r"hidden has a wrong rank; got: \[1, 4, 3, 2\]; wanted: \[B, N, H\]"):
        session(model, library).run(None, given_)


def test_other_dtypes_are_refused_and_not_computed_otherwise(library):
    model = gather_model(2)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to":
                attribute.i = TensorProto.DOUBLE
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    assert session(model, None)  # the function knows no dtypes
    with pytest.raises(Exception, match="TokenGather"):
        session(model, library)


def test_one_library_serves_many_sessions_at_once(library):
    sessions = [session(gather_model(k), library) for k in (1, 2, 3)] * 2
    given_ = feeds(draw_scores("tied", (2, 9)), 4)
    for index, each in enumerate(sessions):
        assert_same(each.run(None, given_), expected(given_, index % 3 + 1))
