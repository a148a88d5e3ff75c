"""Real frozen decoder graphs give the same bits with the native gather op and without it: prompts and new tokens."""

import numpy as np
import onnx
import pytest
import torch
from gather_models import session
from prunings import pruning

from allrounder import tensors as t
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.export.verify.prompts import prompt_feeds, random_layout
from allrounder.layout import keep_counts

LAYERS = 8  # of the model `tiny`
KEPT = (0, 1, 2, 4, 5, 7)
TEXTS = [(6,), (3, 5), (4, 1, 2)]  # stretches of text with no image, one and two images between them
FREE_SLOTS = 3


@pytest.fixture(scope="module")
def library(program):
    return program("liballrounder_ort_ops.so")


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def frozen(request, tiny, tmp_path_factory):
    """Graphs of par-lite: dynamic and static cut at layer 2, and static cut before the first layer."""
    folder = tmp_path_factory.mktemp("gather") / "frozen"
    freezer = Freezer(tiny.vlm, tiny.router, folder, FreezeOptions(request.param), lambda *_: None)
    freezer.shared()
    for prune_layer, kept in ((2, None), (2, KEPT), (0, KEPT)):
        freezer.add(pruning(("1/4", len(KEPT)), prune_layer, kept, "par-lite"))
    return freezer.spec, [(each.pruning, folder / each.decoder) for each in freezer.finish().versions]


def element(given):
    return np.float16 if "float16" in given.type else np.float32


def prompt(spec, config, graph, texts, seed):
    """Returns what a graph asks for at a prompt: scores have ties and a NaN, caches are zeros."""
    random = np.random.default_rng(seed)
    layout = random_layout(spec, texts, torch.Generator().manual_seed(seed))
    scores = random.integers(-2, 3, layout.image_tokens).astype(np.float32)
    scores[seed : seed + 1] = np.nan
    inputs = {each.name: each for each in graph.get_inputs()}
    mask = np.zeros(LAYERS, bool)
    mask[list(KEPT)] = True
    counts = keep_counts(layout, config.keep_rule)
    dropped = layout.image_tokens - sum(counts)
    rows = random.standard_normal((layout.image_tokens, spec.decoder.hidden))
    given = prompt_feeds(layout) | {
        t.IMAGE_EMBEDS: rows.astype(element(inputs[t.IMAGE_EMBEDS])),
        t.TOKEN_SCORES: scores,
        t.KEEP_COUNTS: np.array(counts, np.int64),
        t.LAYER_MASK: mask,
        t.SLOTS: np.zeros(1, np.int64),
        t.KEPT_SLOTS: np.zeros(1, np.int64),
        t.LOGITS_TO_KEEP: np.array([1]),
    }
    for name, declared in inputs.items():
        if name.startswith("cache_"):
            layer = int(name.rpartition(".")[2])
            slots = layout.rows + FREE_SLOTS - (dropped if layer >= config.prune_layer else 0)
            slots = slots if mask[layer] else 0
            shape = (1, spec.decoder.kv_heads, slots, spec.decoder.head_dim)
            given[name] = np.zeros(shape, element(declared))
    return layout, dropped, {name: given[name] for name in inputs}


def new_tokens(given, layout, dropped, outputs):
    """Returns what the graph asks for at two new tokens behind that prompt."""
    none = np.zeros(0, np.int64)
    caches = {name.replace("_out.", "."): value for name, value in outputs.items() if name.startswith("cache_")}
    changed = caches | {
        t.INPUT_IDS: np.array([[3, 1]]),
        t.POSITION_IDS: np.array([[[layout.next_position, layout.next_position + 1]]]),
        t.IMAGE_EMBEDS: given[t.IMAGE_EMBEDS][:0],
        t.SLOTS: np.array([layout.rows]),
        t.KEPT_SLOTS: np.array([layout.rows - dropped]),
        t.TOKEN_SCORES: np.zeros(0, np.float32),
        t.LOGITS_TO_KEEP: np.array([2]),
    }
    changed |= dict.fromkeys((t.IMAGE_INDEX, t.IMAGE_OF, t.KEEP_COUNTS), none)
    return {name: changed.get(name, value) for name, value in given.items()}


def same(native, plain, given):
    """Runs both and returns the outputs by name, which are the same bits."""
    names = [each.name for each in plain.get_outputs()]
    found, wanted = (dict(zip(names, each.run(None, given), strict=True)) for each in (native, plain))
    for name in names:
        assert found[name].shape == wanted[name].shape, name
        assert found[name].tobytes() == wanted[name].tobytes(), name
    return found


def test_same_bits_with_and_without(frozen, library, tmp_path):
    spec, graphs = frozen
    assert len(graphs) == 3
    for index, (config, path) in enumerate(graphs):
        native, plain = session(path, library, optimized=tmp_path / f"{index}.onnx"), session(path, None)
        nodes = onnx.load(tmp_path / f"{index}.onnx", load_external_data=False).graph.node
        assert [node.op_type for node in nodes].count("TokenGather") == 1
        for seed, texts in enumerate(TEXTS):
            layout, dropped, given = prompt(spec, config, plain, texts, seed)
            outputs = same(native, plain, given)
            assert len(outputs[t.KEEP_INDICES]) == layout.image_tokens - dropped
            assert (dropped > 0) == (layout.image_tokens > 0)
            again = same(native, plain, new_tokens(given, layout, dropped, outputs))
            assert len(again[t.KEEP_INDICES]) == 0
