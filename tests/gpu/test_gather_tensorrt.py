"""The plugin in TensorRT: loaded by path, found by the ONNX parser, kept in a plan, and right on the device."""

import numpy as np
import pytest
import torch
from gather_models import draw_scores, expected, feeds, gather_model

pytestmark = pytest.mark.gpu

tensorrt = pytest.importorskip("tensorrt", reason="TensorRT's Python package is not installed")

TOKENS, K, HIDDEN = 576, 144, 256


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
    assert parser.parse(gather_model(K, dtype).SerializeToString()), parser.get_error(0)
    layers = [network.get_layer(index).type for index in range(network.num_layers)]
    assert tensorrt.LayerType.PLUGIN_V3 in layers
    assert tensorrt.LayerType.TOPK not in layers
    profile = builder.create_optimization_profile()
    for name, rest in (("hidden", (TOKENS, HIDDEN)), ("scores", (TOKENS,)), ("positions", (TOKENS,))):
        profile.set_shape(name, (1, *rest), (2, *rest), (4, *rest))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    serialized = builder.build_serialized_network(network, config)
    assert serialized is not None
    return serialized


def run(engine, given):
    """Runs an engine once on torch's current stream and returns its outputs."""
    context = engine.create_execution_context()
    inputs = {name: torch.from_numpy(np.ascontiguousarray(array)).cuda() for name, array in given.items()}
    for name, tensor in inputs.items():
        assert context.set_input_shape(name, tuple(tensor.shape))
        assert context.set_tensor_address(name, tensor.data_ptr())
    outputs = {
        "gathered": torch.empty((len(given["scores"]), K, HIDDEN), dtype=inputs["hidden"].dtype, device="cuda"),
        "gathered_positions": torch.empty((len(given["scores"]), K), dtype=torch.int64, device="cuda"),
        "keep": torch.empty((len(given["scores"]), K), dtype=torch.int64, device="cuda"),
    }
    for name, tensor in outputs.items():
        assert context.set_tensor_address(name, tensor.data_ptr())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    assert context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    return [tensor.cpu().numpy() for tensor in outputs.values()]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_plugin_equals_the_rule(logger, dtype):
    engine = tensorrt.Runtime(logger).deserialize_cuda_engine(plan(logger, dtype))
    for batch, kind in ((1, "random"), (2, "tied"), (4, "odd")):
        given = feeds(draw_scores(kind, (batch, TOKENS)), HIDDEN, dtype)
        assert [each.tobytes() for each in run(engine, given)] == [each.tobytes() for each in expected(given, K)]
