"""The native op on ONNX Runtime's CUDA provider: the bits of the rule, and the bits of the function's standard ops."""

import onnx
import onnxruntime
import pytest
from gather_models import DTYPES, Prompt, draw_scores, expected, feeds, gather_model

pytestmark = pytest.mark.gpu

CUDA = "CUDAExecutionProvider"
PROMPTS = [
    Prompt((1,), (1,)),
    Prompt((20,), (7,), hidden=9, axes=3),
    Prompt((33, 12), (33, 5), hidden=16),
    Prompt((576,), (144,), text=64, hidden=4096),
    Prompt((2880, 2880), (640, 640), text=64, hidden=64),
    Prompt((), (), text=1, hidden=4096, axes=3, batch=8),
]


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
@pytest.mark.parametrize("prompt", PROMPTS, ids=str)
def test_op_equals_the_rule(library, prompt, dtype, kind):
    given = feeds(prompt, draw_scores(kind, prompt.tokens), dtype)
    found = session(gather_model(dtype), library).run(None, given)
    plain = session(gather_model(dtype), None).run(None, given)
    assert [each.tobytes() for each in found[1:]] == [each.tobytes() for each in expected(given)[1:]]
    assert found[0].tobytes() == plain[0].tobytes()


def test_op_runs_on_the_device(library, tmp_path):
    session(gather_model(), library, tmp_path / "model.onnx")
    nodes = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert "TokenGather" in nodes
    assert not [node for node in nodes if node.startswith("Memcpy")]  # what chooses stays on the CPU, the rest does not


def test_impossible_counts_are_named(library):
    given = feeds(Prompt((2,), (3,)), draw_scores("random", 2))
    with pytest.raises(Exception, match=r"got: keep_counts\[0\] = 3; wanted: 0 to 2"):
        session(gather_model(), library).run(None, given)
