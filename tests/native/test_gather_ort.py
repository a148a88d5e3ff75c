"""The native op in ONNX Runtime: the same file gives the same bits with and without it, and it says what is wrong."""

import timeit

import numpy as np
import onnx
import pytest
from gather_models import DTYPES, ODD, Prompt, draw_scores, expected, feeds, gather_model, gather_session, session
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

PROMPTS = [
    Prompt((1,), (1,)),
    Prompt((7,), (0,), hidden=1),
    Prompt((20,), (1,), hidden=9, axes=3),
    Prompt((33, 12), (12, 12), hidden=16),
    Prompt((576,), (144,), text=64, hidden=64, axes=3),
    Prompt((100, 0, 200), (99, 0, 7)),
    Prompt((12,), (4,), text=0, hidden=0),
    Prompt((), (), text=1, hidden=8, axes=3, batch=8),
    Prompt((), (), text=4, batch=2),
    Prompt((), (), text=0, batch=0),
]


@pytest.fixture(scope="session")
def library(program):
    return program("liballrounder_ort_ops.so")


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


@pytest.mark.parametrize("kind", ["random", "tied", "odd"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("prompt", PROMPTS, ids=str)
def test_op_equals_function_bit_for_bit(library, prompt, dtype, kind):
    given_ = feeds(prompt, draw_scores(kind, prompt.tokens), dtype)
    found = gather_session(dtype, library).run(None, given_)
    assert_same(found, gather_session(dtype).run(None, given_))
    if dtype != "bfloat16":  # whose rows are rounded on their way in
        assert_same(found, expected(given_))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_op_equals_the_rule(library, data):
    tokens_of = tuple(data.draw(st.lists(st.integers(0, 8), max_size=4)))
    counts = tuple(data.draw(st.one_of(st.just(0), st.just(each), st.integers(0, each))) for each in tokens_of)
    prompt = Prompt(tokens_of, counts, data.draw(st.integers(0, 6)), axes=data.draw(st.integers(1, 3)))
    values = st.lists(st.sampled_from(ODD), min_size=prompt.tokens, max_size=prompt.tokens)
    given_ = feeds(prompt, np.array(data.draw(values), np.float32), seed=data.draw(st.integers(0, 9)))
    found = gather_session("float32", library).run(None, given_)
    assert_same(found, expected(given_))
    assert_same(found, gather_session().run(None, given_))


@pytest.mark.parametrize("dtype", DTYPES)
def test_op_wins_over_the_function(library, dtype, tmp_path):
    session(gather_model(dtype), library, optimized=tmp_path / "with.onnx")
    session(gather_model(dtype), None, optimized=tmp_path / "without.onnx")
    nodes = {
        name: [(node.domain, node.op_type) for node in onnx.load(tmp_path / f"{name}.onnx").graph.node]
        for name in ("with", "without")
    }
    assert ("allrounder", "TokenGather") in nodes["with"]
    assert "ScatterND" not in {op for _, op in nodes["with"]}
    assert "ScatterND" in {op for _, op in nodes["without"]}
    assert ("allrounder", "TokenGather") not in nodes["without"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_are_inferred_and_symbols_kept(library, dtype):
    model = gather_model(dtype)
    del model.graph.output[:]
    for name in ("rows", "gathered_position_ids", "keep_indices"):  # of the node itself; no types
        model.graph.output.append(helper.make_empty_tensor_value_info(name))
    element = {"float32": "tensor(float)", "float16": "tensor(float16)", "bfloat16": "tensor(bfloat16)"}[dtype]
    outputs = session(model, library).get_outputs()
    assert [(each.name, each.type) for each in outputs] == [
        ("rows", element),
        ("gathered_position_ids", "tensor(int64)"),
        ("keep_indices", "tensor(int64)"),
    ]
    (batch, rows, extent), (axes, batch_too, rows_too), (tokens,) = (each.shape for each in outputs)
    assert (batch, extent, axes, batch_too) == ("B", "H", "A", "B")
    assert rows == rows_too != tokens  # names of this node's own
    assert (rows.endswith(".R"), tokens.endswith(".T")) == (True, True)
    assert session(model, library).get_outputs()[2].shape != [tokens]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"position_ids": np.zeros((1, 1, 8), np.int64)},
            r"position_ids do not fit hidden \[1, 9, 3\]; got: \[1, 1, 8\]",
        ),
        ({"image_index": np.arange(3)}, r"image_index does not fit scores \[4\]; got: \[3\]; wanted: \[4\]"),
        ({"image_of": np.zeros(5, np.int64)}, r"image_of does not fit scores \[4\]; got: \[5\]; wanted: \[4\]"),
        ({"image_index": np.array([0, 1, 2, 9])}, r"got: image_index\[3\] = 9; wanted: 3 to 8"),
        ({"image_index": np.array([0, 2, 1, 8])}, r"image_index is not ascending below S; got: image_index\[2\] = 1"),
        ({"image_index": np.array([0, 2, 2, 8])}, r"got: image_index\[2\] = 2"),
        ({"image_index": np.array([-1, 2, 3, 8])}, r"got: image_index\[0\] = -1"),
        ({"image_of": np.array([0, 0, 1, 2])}, r"image_of names no image; got: image_of\[3\] = 2"),
        ({"image_of": np.array([0, 0, 1, -1])}, r"got: image_of\[3\] = -1"),
        ({"keep_counts": np.array([2, 2**62])}, r"got: keep_counts\[1\] = 4611686018427387904; wanted: 0 to 2"),
        ({"keep_counts": np.array([-1, 2])}, r"keep_counts does not fit the image; got: keep_counts\[0\] = -1"),
        ({"keep_counts": np.array([1])}, r"got: image_of\[\d\] = 1; wanted: 0 or more, below I = 1"),
        (
            {"hidden": np.zeros((2, 9, 3), np.float32), "position_ids": np.zeros((1, 2, 9), np.int64)},
            "image tokens in a batch; got: N = 4, B = 2; wanted: B = 1, or N = 0",
        ),
    ],
)
def test_impossible_inputs_are_named(library, changed, says):
    given_ = feeds(Prompt((2, 2), (1, 2)), draw_scores("random", 4)) | changed
    with pytest.raises(Exception, match=says):
        gather_session("float32", library).run(None, given_)


def test_wrong_rank_is_named(library):
    model = gather_model()
    model.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 2
    given_ = feeds(Prompt((4,), (2,)), np.zeros(4)) | {"hidden": np.zeros((1, 9, 3, 2), np.float32)}
    with pytest.raises(Exception, match=r"hidden has a wrong rank; got: \[1, 9, 3, 2\]; wanted: \[B, S, H\]"):
        session(model, library).run(None, given_)


def test_other_dtypes_are_refused_and_not_computed_otherwise(library):
    model = gather_model()
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to":
                attribute.i = TensorProto.DOUBLE
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    assert session(model, None)  # the function knows no dtypes
    with pytest.raises(Exception, match="TokenGather"):
        session(model, library)


def test_one_library_serves_many_sessions_at_once(library):
    sessions = [session(gather_model(dtype), library) for dtype in ("float32", "float16")] * 2
    for index, each in enumerate(sessions):
        given_ = feeds(Prompt((9, 4), (3, 4)), draw_scores("tied", 13), ("float32", "float16")[index % 2])
        assert_same(each.run(None, given_), expected(given_))


def test_op_is_faster_than_the_function(library):
    """The function compares every token with every other."""
    prompt = Prompt((2000, 2000), (500, 500), hidden=8)
    given_ = feeds(prompt, draw_scores("random", prompt.tokens))

    def best(each):
        return min(timeit.repeat(lambda: each.run(None, given_), number=1, repeat=3))

    assert best(gather_session("float32", library)) * 5 < best(gather_session())
