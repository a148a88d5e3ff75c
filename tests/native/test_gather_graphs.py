"""Real frozen prefill graphs give the same bits with the native gather op and without it."""

import numpy as np
import onnx
import pytest
from gather_models import session
from prunings import pruning

from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.versions import resolve

TOKENS, LAYERS = 16, 8  # of the model `tiny`
KEPT = (0, 1, 2, 4, 5, 7)
PREFIX, SUFFIX, FREE_SLOTS = 3, 5, 2


@pytest.fixture(scope="module")
def library(program):
    return program("liballrounder_ort_ops.so")


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def graphs(request, tiny, tmp_path_factory):
    """Prefill graphs of par-lite: dynamic and static cut at layer 2, and static cut before the first layer."""
    folder = tmp_path_factory.mktemp("gather") / "frozen"
    freezer = Freezer(tiny.vlm, tiny.router, folder, FreezeOptions(request.param), lambda *_: None)
    freezer.shared()
    budget = resolve("par-lite", tokens=TOKENS, layers=LAYERS)
    for prune_layer, kept in ((2, None), (2, KEPT), (0, KEPT)):
        freezer.add(pruning(budget, prune_layer, kept, "par-lite"))
    return [folder / each.prefill for each in freezer.finish().versions]


def feeds(graph, batch, seed):
    """Returns what a prefill graph asks for, drawn at random; scores have ties and a NaN."""
    random = np.random.default_rng(seed)
    scores = random.integers(-2, 3, (batch, TOKENS)).astype(np.float32)
    scores[:, seed % TOKENS] = np.nan
    hidden = next(each for each in graph.get_inputs() if each.name == "image_embeds")
    image_embeds = random.standard_normal((batch, TOKENS, hidden.shape[2]))
    given = {
        "prefix_ids": random.integers(0, 50, (batch, PREFIX)),
        "image_embeds": image_embeds.astype(np.float16 if "float16" in hidden.type else np.float32),
        "suffix_ids": random.integers(0, 50, (batch, SUFFIX)),
        "suffix_lengths": random.integers(1, SUFFIX + 1, (batch,)),
        "free_slots": np.array([FREE_SLOTS], np.int64),
        "token_scores": scores,
        "layer_scores": random.standard_normal((batch, LAYERS)).astype(np.float32),
    }
    return {each.name: given[each.name] for each in graph.get_inputs()}


def test_same_bits_with_and_without(graphs, library, tmp_path):
    assert len(graphs) == 3
    for index, path in enumerate(graphs):
        native, plain = session(path, library, optimized=tmp_path / f"{index}.onnx"), session(path, None)
        nodes = onnx.load(tmp_path / f"{index}.onnx", load_external_data=False).graph.node
        assert [node.op_type for node in nodes].count("TokenGather") == 1
        routed = "layer_scores" in {each.name for each in plain.get_inputs()}
        for batch in (1,) if routed else (1, 3):
            for seed in range(4):
                given = feeds(plain, batch, seed)
                names = [each.name for each in plain.get_outputs()]
                for name, one, other in zip(names, native.run(None, given), plain.run(None, given), strict=True):
                    assert one.shape == other.shape, name
                    assert one.tobytes() == other.tobytes(), name
