"""The plugin in TensorRT: loaded by path, found by the ONNX parser, kept in a plan, and right on the device."""

import numpy as np
import pytest
import torch
from gather_models import Prompt, draw_scores, expected, feeds, gather_model

from allrounder.engines.tensorrt.form import TOKENS_TO_KEEP, parsed_form

pytestmark = pytest.mark.gpu

tensorrt = pytest.importorskip("tensorrt", reason="TensorRT's Python package is not installed")

TOKENS, ROWS, HIDDEN = 1152, 1200, 256  # the most that the plan takes


@pytest.fixture(scope="module")
def logger(libraries):
    """TensorRT's logger, with the plugin's library loaded."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    path = libraries / "liballrounder_tensorrt_plugin.so"
    if not path.is_file():
        pytest.skip(f"{path} was not built (-DALLROUNDER_TENSORRT=ON -DTENSORRT_ROOT=DIR)")
    made = tensorrt.Logger(tensorrt.Logger.WARNING)
    tensorrt.init_libnvinfer_plugins(made, "")
    assert tensorrt.get_plugin_registry().load_library(str(path)) is not None
    return made


def plan(logger, dtype):
    """Builds the one-gather model, whose node must have become the plugin."""
    builder = tensorrt.Builder(logger)
    strongly_typed = int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(1 << strongly_typed)
    parser = tensorrt.OnnxParser(network, logger)
    assert parser.parse(parsed_form(gather_model(dtype), {}).SerializeToString()), parser.get_error(0)
    layers = [network.get_layer(index).type for index in range(network.num_layers)]
    assert tensorrt.LayerType.PLUGIN_V3 in layers
    assert tensorrt.LayerType.SCATTER not in layers  # the function's body
    config = builder.create_builder_config()
    for batch, tokens, images in ((1, TOKENS, 8), (8, 0, 0)):  # prompts, new tokens
        profile = builder.create_optimization_profile()
        for name, least, most in (
            ("hidden", (1, 1, HIDDEN), (batch, ROWS, HIDDEN)),
            ("position_ids", (1, 1, 1), (3, batch, ROWS)),
            *((name, (0,), (tokens,)) for name in ("scores", "image_index", "image_of", TOKENS_TO_KEEP)),
            ("keep_counts", (0,), (images,)),
        ):
            profile.set_shape(name, least, most, most)
        config.add_optimization_profile(profile)
    serialized = builder.build_serialized_network(network, config)
    assert serialized is not None
    return serialized


def run(engine, given, kept):
    """Runs an engine once; returns its outputs, sized before the run, or None where it fails."""
    context = engine.create_execution_context()
    stream = torch.cuda.Stream()
    assert context.set_optimization_profile_async(0 if given["scores"].size else 1, stream.cuda_stream)
    given = given | {TOKENS_TO_KEEP: np.zeros(kept, np.int64)}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)).cuda() for name, array in given.items()}
    for name, tensor in tensors.items():
        assert context.set_input_shape(name, tuple(tensor.shape))
    assert context.infer_shapes() == []
    outputs = {"gathered": tensors["hidden"].dtype, "gathered_position_ids": torch.int64, "keep_indices": torch.int64}
    for name, dtype in outputs.items():
        tensors[name] = torch.zeros(tuple(context.get_tensor_shape(name)), dtype=dtype, device="cuda")
    nothing = torch.zeros(1, device="cuda")  # an empty tensor, too, has an address
    for name, tensor in tensors.items():
        assert context.set_tensor_address(name, (tensor if tensor.numel() else nothing).data_ptr())
    stream.wait_stream(torch.cuda.current_stream())
    done = context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    return [tensors[name].cpu().numpy() for name in outputs] if done else None


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_plugin_equals_the_rule(logger, dtype):
    engine = tensorrt.Runtime(logger).deserialize_cuda_engine(plan(logger, dtype))
    for prompt, kind in (
        (Prompt((576,), (144,), text=40, hidden=HIDDEN), "random"),
        (Prompt((576, 576), (144, 7), text=9, hidden=HIDDEN, axes=3), "tied"),
        (Prompt((30, 30), (30, 0), text=9, hidden=HIDDEN), "odd"),
        (Prompt((), (), text=1, hidden=HIDDEN, batch=8), "random"),
    ):
        given = feeds(prompt, draw_scores(kind, prompt.tokens), dtype)
        found = run(engine, given, sum(prompt.keep_counts))
        assert [each.shape for each in found] == [each.shape for each in expected(given)]
        assert [each.tobytes() for each in found] == [each.tobytes() for each in expected(given)]


def test_counts_that_are_not_the_length_are_refused(logger):
    engine = tensorrt.Runtime(logger).deserialize_cuda_engine(plan(logger, "float32"))
    given = feeds(Prompt((576,), (144,), text=40, hidden=HIDDEN), draw_scores("random", 576))
    assert run(engine, given, 143) is None
