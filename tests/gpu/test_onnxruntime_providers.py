"""ONNX Runtime on a GPU answers as on the CPU: same decisions, logits within a bound, nothing but shapes left behind.

The first thing to run where there is a GPU: docs/gpu.md says what was known before it ever ran.
"""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from prunings import pruning

from allrounder.chat.messages import question
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging, publish
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.onnxruntime.session import open_session
from allrounder.errors import EngineUnavailable
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.runtime import Runtime
from allrounder.runtime.engine import Engine, EngineOptions
from allrounder.versions import keep_of

pytestmark = pytest.mark.gpu

DECISIONS = [("full", "static"), ("par-lite", "static"), ("par-lite", "dynamic")]
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2}  # of the logits' standard deviation; a GPU adds in an order of its own
PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


@pytest.fixture(params=PROVIDERS)
def options(request):
    """Options of a GPU, with each provider."""
    if PROVIDERS[request.param] not in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime has no {PROVIDERS[request.param]}: install onnxruntime-gpu")
    return EngineOptions(threads=2, device="cuda", provider=request.param)


@pytest.fixture(scope="module", params=TOLERANCE)
def bundle(request, tiny, tmp_path_factory):
    """A bundle of one precision with all decisions."""
    folder = tmp_path_factory.mktemp(request.param)
    freezer = Freezer(tiny.vlm, tiny.router, folder / "frozen", FreezeOptions(request.param), lambda *_: None)
    freezer.shared()
    lite = (keep_of("par-lite"), 6)
    freezer.add(pruning((1, 8), 0, tuple(range(8)), "full"))
    freezer.add(pruning(lite, 2, (0, 1, 2, 4, 5, 7), "par-lite"))
    freezer.add(pruning(lite, 2, None, "par-lite"))
    freezer.finish()
    with Staging(folder / "bundle") as staging:
        backend("onnxruntime").build(folder / "frozen", staging, BuildOptions())
        publish(staging)
    return open_bundle(folder / "bundle")


def opened(bundle, entry, options):
    """Opens an entry; skips where the provider does not start, and not where it would leave work to the CPU."""
    try:
        return Engine.open(bundle, entry, options)
    except EngineUnavailable as error:
        if "could not use" not in str(error):
            raise
        pytest.skip(str(error))


def logits(engine, rgb, scores=None):
    """Returns the router's scores and the logits of a prompt and five steps, one of them of three tokens."""
    layout, image_embeds = engine.layout(question("what is it?")), engine.embed_image(rgb)
    scores = scores or engine.route(layout, image_embeds)
    state = engine.prefill(layout, image_embeds, scores, free_slots=9)
    steps = [engine.decode(state, ids)[0] for ids in ([3], [5], [6], [5, 7, 9], [11])]
    return scores, state, np.concatenate([state.logits, *steps])


@pytest.mark.parametrize(("version", "policy"), DECISIONS)
def test_logits_are_those_of_the_cpu(bundle, options, version, policy):
    entries = bundle.manifest.entries
    (entry,) = (each for each in entries if (each.version, each.pruning.layer_policy) == (version, policy))
    if policy == "dynamic" and options.provider == "tensorrt":
        pytest.skip("dynamic layers are refused there: tests/engines/test_onnxruntime_providers.py")
    rgb = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)
    scores, state, wanted = logits(Engine.open(bundle, entry, EngineOptions(threads=2)), rgb)
    # The same scores for both, so that near-ties do not decide.
    _, found, got = logits(opened(bundle, entry, options), rgb, scores)
    assert (found.keep_indices, found.kept_layers) == (state.keep_indices, state.kept_layers)
    assert np.abs(got - wanted).max() <= TOLERANCE[entry.precision] * wanted.std()


def test_scores_are_those_of_the_cpu(bundle, options):
    entry = next(each for each in bundle.manifest.entries if each.version == "par-lite" and each.pruning.kept_layers)
    rgb = np.random.default_rng(2).integers(0, 256, (60, 80, 3), np.uint8)
    first, second = (
        engine.route(engine.layout(question("what is it?")), engine.embed_image(rgb))
        for engine in (Engine.open(bundle, entry, EngineOptions(threads=2)), opened(bundle, entry, options))
    )
    assert first
    assert second
    for one, other in zip(first, second, strict=True):
        assert np.abs(one - other).max() <= TOLERANCE[entry.precision] * one.std()


def test_requests_side_by_side_do_not_disturb_each_other(bundle, options):
    entry = next(each for each in bundle.manifest.entries if each.version == "par-lite" and each.pruning.kept_layers)
    engine = opened(bundle, entry, options)
    rgb = np.random.default_rng(3).integers(0, 256, (2, 60, 80, 3), np.uint8)
    with Runtime(engine) as runtime:
        alone = [runtime.generate(each, "what is it?", max_new_tokens=8).token_ids for each in rgb]
        streams = [runtime.stream(each, "what is it?", max_new_tokens=8) for each in rgb]
        while any([next(stream, None) is not None for stream in streams]):  # noqa: C419  # each is pulled in turn
            pass
        assert [stream.answer and stream.answer.token_ids for stream in streams] == alone


def test_a_step_sees_what_its_cells_hold_now(options, tmp_path):
    """`slots` is wanted on both sides: ONNX Runtime gives the sum to the CPU, and the product to the GPU."""
    nodes = [
        helper.make_node("Shape", ["x"], ["rows"]),
        helper.make_node("Add", ["slots", "rows"], ["sum"]),
        helper.make_node("Cast", ["slots"], ["slot"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "slot"], ["product"]),
    ]
    kinds = {"x": TensorProto.FLOAT, "slots": TensorProto.INT64, "sum": TensorProto.INT64, "product": TensorProto.FLOAT}
    values = [helper.make_tensor_value_info(name, kind, ["n"]) for name, kind in kinds.items()]
    graph = helper.make_graph(nodes, "cells", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    (tmp_path / "cells.onnx").write_bytes(model.SerializeToString())
    try:
        session = open_session(tmp_path / "cells.onnx", options)
    except EngineUnavailable as error:
        if "could not use" not in str(error):
            raise
        pytest.skip(str(error))
    x, slots = session.cell(np.array([1, 2, 4], np.float32)), session.cell(np.array([0]))
    total, product = session.cell(np.array([0])), session.cell(np.zeros(3, np.float32))
    inputs = {"x": x.tensor, "slots": slots.tensor}
    bound = session.bind(inputs, {"sum": total.tensor, "product": product.tensor})
    for slot in (5, 6, 50):
        slots.set(np.array([slot]))
        bound.run()
        assert total.get().tolist() == [slot + 3]
        assert product.get().tolist() == [slot, 2 * slot, 4 * slot]
