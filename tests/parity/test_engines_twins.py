"""Flat twins of real graphs compute what the graphs compute, and hold standard ops alone."""

import msgspec
import numpy as np
import onnx
import pytest
from prunings import pruning

from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.bundle.references import references
from allrounder.engines.entries import graph_paths
from allrounder.engines.graphs.flat import write_twin
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.manifest import EntryGraphs
from allrounder.runtime.engine import Engine
from allrounder.versions import resolve


@pytest.fixture(scope="module")
def twins(tiny, tmp_path_factory):
    """An opened bundle of dynamic and static par-lite, and the flat twin of each of its graphs."""
    folder = tmp_path_factory.mktemp("twins")
    freezer = Freezer(tiny.host, tiny.router, folder / "frozen", FreezeOptions("fp32"), lambda *_: None)
    freezer.shared()
    budget = resolve("par-lite", tokens=16, layers=8)
    freezer.add(pruning(budget, 2, None, "par-lite"))
    freezer.add(pruning(budget, 2, (0, 1, 2, 4, 5, 7), "par-lite"))
    freezer.finish()
    with Staging(folder / "bundle") as staging:
        entries = backend("onnxruntime").build(folder / "frozen", staging, BuildOptions())
        written = {path: write_twin(staging, path) for path in graph_paths(entries)}
        yield open_bundle(staging.path), written


def test_twins_hold_standard_ops_alone(twins):
    bundle, written = twins
    assert len(written) == 7
    for path, twin in written.items():
        model = onnx.load(bundle.path / twin, load_external_data=False)
        assert not model.functions
        assert [opset.domain for opset in model.opset_import] == [""]
        assert {node.domain for node in model.graph.node} == {""}
        assert references(bundle.path / twin, twin) <= references(bundle.path / path, path)


def test_twins_answer_alike(twins):
    """Of the same pixel values: a twin's resizing rounds a few pixels otherwise (tests/parity/test_openvino.py)."""
    pixels = np.random.default_rng(0).standard_normal((1, 3, 56, 56), np.float32)
    bundle, written = twins
    for entry in bundle.manifest.entries:
        paths = {name: path and written[path] for name, path in msgspec.structs.asdict(entry.graphs).items()}
        results = []
        for each in (entry, msgspec.structs.replace(entry, graphs=EntryGraphs(**paths))):
            engine = Engine.open(bundle, each)
            prompt, visual = engine.prompt("what is it?"), engine.look(pixels)
            state = engine.prefill(prompt, visual, engine.route(prompt, visual), room=4)
            step = engine.decode(state, [5])
            results.append((state.keep_list, state.layer_plan, np.array(state.logits), np.array(step)))
        (keep, plan, first, second), other = results
        np.testing.assert_array_equal(keep, other[0])
        np.testing.assert_array_equal(plan, other[1])
        np.testing.assert_allclose(first, other[2], rtol=0, atol=1e-6)
        np.testing.assert_allclose(second, other[3], rtol=0, atol=1e-6)
