"""The native op on ONNX Runtime's CUDA provider: the bits of the rule, and the bits of the function's standard ops."""

import onnx
import onnxruntime
import pytest
from gather_models import DTYPES, draw_scores, expected, feeds, gather_model

pytestmark = pytest.mark.gpu

CUDA = "CUDAExecutionProvider"
SHAPES = [(1, 1, 1, 3), (2, 20, 7, 9), (3, 33, 33, 16), (1, 576, 144, 4096), (8, 2880, 640, 64)]


@pytest.fixture(scope="module")
def library(libraries):
    path = libraries / "liballrounder_ort_ops.so"
    if not path.is_file():
        pytest.skip(f"{path} was not built")
    return path


def session(model, library, optimized=None):
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA provider: install onnxruntime-gpu")
    options = onnxruntime.SessionOptions()
    if library is not None:
        options.register_custom_ops_library(str(library))
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    made = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CUDA, "CPUExecutionProvider"])
    if CUDA not in made.get_providers():
        pytest.skip("ONNX Runtime's CUDA provider does not start: no device, or no CUDA libraries")
    return made


@pytest.mark.parametrize("kind", ["random", "tied", "odd"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_op_equals_the_rule(library, shape, dtype, kind):
    batch, tokens, k, hidden = shape
    given = feeds(draw_scores(kind, (batch, tokens)), hidden, dtype)
    found = session(gather_model(k, dtype), library).run(None, given)
    plain = session(gather_model(k, dtype), None).run(None, given)
    assert [each.tobytes() for each in found[1:]] == [each.tobytes() for each in expected(given, k)[1:]]
    assert found[0].tobytes() == plain[0].tobytes()


def test_op_runs_on_the_device(library, tmp_path):
    session(gather_model(3), library, tmp_path / "model.onnx")
    nodes = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert "TokenGather" in nodes
    assert not [node for node in nodes if node.startswith("Memcpy")]  # nothing goes back to the CPU


def test_impossible_shapes_are_named(library):
    given = feeds(draw_scores("random", (1, 2)), 4)
    with pytest.raises(Exception, match="more tokens to keep than there are; got: k = 3 of N = 2"):
        session(gather_model(3), library).run(None, given)
