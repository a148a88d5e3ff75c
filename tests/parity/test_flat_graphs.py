"""Flat copies of real graphs compute what the graphs compute, and hold standard ops alone."""

from fractions import Fraction

import msgspec
import numpy as np
import onnx
import pytest
from prunings import pruning

from allrounder.chat.messages import question
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.bundle.references import references
from allrounder.engines.entries import graph_paths
from allrounder.engines.graphs.flat import write_flat_copy
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.manifest import EntryGraphs
from allrounder.runtime.engine import Engine


@pytest.fixture(scope="module")
def flat_copies(tiny, tmp_path_factory):
    """An opened bundle of dynamic and static par-lite, and the flat copy of each of its graphs."""
    folder = tmp_path_factory.mktemp("flat_copies")
    freezer = Freezer(tiny.vlm, tiny.router, folder / "frozen", FreezeOptions("fp32"), lambda *_: None)
    freezer.shared()
    budget = (Fraction(1, 4), 6)
    freezer.add(pruning(budget, 2, None, "par-lite"))
    freezer.add(pruning(budget, 2, (0, 1, 2, 4, 5, 7), "par-lite"))
    freezer.finish()
    with Staging(folder / "bundle") as staging:
        entries = backend("onnxruntime").build(folder / "frozen", staging, BuildOptions())
        written = {path: write_flat_copy(staging, path) for path in graph_paths(entries)}
        yield open_bundle(staging.path), written


def test_flat_copies_hold_standard_ops_alone(flat_copies):
    bundle, written = flat_copies
    assert len(written) == 4
    for path, flat_copy in written.items():
        model = onnx.load(bundle.path / flat_copy, load_external_data=False)
        assert not model.functions
        assert [opset.domain for opset in model.opset_import] == [""]
        assert {node.domain for node in model.graph.node} == {""}
        assert references(bundle.path / flat_copy, flat_copy) <= references(bundle.path / path, path)


def test_flat_copies_answer_alike(flat_copies):
    photos = list(np.random.default_rng(0).integers(0, 256, (2, 70, 56, 3), np.uint8))
    bundle, written = flat_copies
    for entry in bundle.manifest.entries:
        paths = {name: path and written[path] for name, path in msgspec.structs.asdict(entry.graphs).items()}
        results = []
        for each in (entry, msgspec.structs.replace(entry, graphs=EntryGraphs(**paths))):
            engine = Engine.open(bundle, each)
            state = engine.start(engine.prepare(photos), engine.layout(question("what is it?", 2)), free_slots=4)
            step = engine.decode(state, [5])
            results.append((state.keep_indices, state.kept_layers, np.array(state.logits), np.array(step)))
        (keep, layers, first, second), other = results
        np.testing.assert_array_equal(keep, other[0])
        np.testing.assert_array_equal(layers, other[1])
        np.testing.assert_allclose(first, other[2], rtol=0, atol=1e-6)
        np.testing.assert_allclose(second, other[3], rtol=0, atol=1e-6)
