"""Flat twins of real graphs compute what the graphs compute, and hold standard ops alone."""

import msgspec
import numpy as np
import onnx
import pytest

from allrounder.bundle import open_bundle
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle import Staging
from allrounder.engines.merging import flat_twin
from allrounder.export.freezer import FreezeOptions, Freezer, FreezeRequest
from allrounder.runtime.engine import Engine
from allrounder.versions import resolve


@pytest.fixture(scope="module")
def twins(tiny, tmp_path_factory):
    """An opened bundle of routed and frozen par-lite with flat twins."""
    folder = tmp_path_factory.mktemp("twins")
    freezer = Freezer(tiny.host, tiny.router, folder / "frozen", FreezeOptions("fp32"), lambda *_: None)
    freezer.shared()
    version = resolve("par-lite", tokens=16, layers=8)
    freezer.add(FreezeRequest(version, 2, "routed", None))
    freezer.add(FreezeRequest(version, 2, "frozen", (0, 1, 2, 4, 5, 7)))
    freezer.finish()
    with Staging(folder / "bundle") as staging:
        backend("onnxruntime").build(folder / "frozen", staging, BuildOptions(inline=True))
        yield open_bundle(staging.path)


def flat(entry):
    paths = {name: path and flat_twin(path) for name, path in msgspec.structs.asdict(entry.graphs).items()}
    return msgspec.structs.replace(entry, graphs=msgspec.structs.replace(entry.graphs, **paths))


def test_twins_hold_standard_ops_alone(twins):
    paths = [path for path in twins.manifest.files if path.endswith(".flat.onnx")]
    assert len(paths) == 7
    for path in paths:
        model = onnx.load(twins.path / path, load_external_data=False)
        assert not model.functions
        assert {node.domain for node in model.graph.node} == {""}


def test_twins_answer_alike(twins):
    """Of the same pixel values: a twin's resizing rounds a few pixels otherwise (tests/parity/test_openvino.py)."""
    pixels = np.random.default_rng(0).standard_normal((1, 3, 56, 56), np.float32)
    for entry in twins.manifest.entries:
        results = []
        for each in (entry, flat(entry)):
            engine = Engine.open(twins, each)
            prompt, visual = engine.prompt("what is it?"), engine.look(pixels)
            state = engine.prefill(prompt, visual, engine.route(prompt, visual), room=4)
            step = engine.decode(state, [5])
            results.append((state.keep_list, state.layer_plan, np.array(state.logits), np.array(step)))
        (keep, plan, first, second), other = results
        np.testing.assert_array_equal(keep, other[0])
        np.testing.assert_array_equal(plan, other[1])
        np.testing.assert_allclose(first, other[2], rtol=0, atol=1e-6)
        np.testing.assert_allclose(second, other[3], rtol=0, atol=1e-6)
