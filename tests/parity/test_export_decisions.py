"""Removed equals masked, for graphs: prefill and decode in ONNX Runtime against the stock model, masked.

Tiny random models of every family; what counts is max |difference| <= 1e-4 x std(reference) in fp32.
"""

import functools
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
import pytest
import torch
from prunings import pruning

from allrounder.export.graph.decode import decode_graph
from allrounder.export.graph.prefill import prefill_graph
from allrounder.export.graph.pruned_spec import pruned_spec
from allrounder.export.graph.writer import serialized
from allrounder.export.weights.layout import ELEMENT_TYPES, FOLDER, lay_out, model_tensors, write
from allrounder.export.weights.widened import widened
from allrounder.progress import silent
from allrounder.router.selection import keep_indices, kept_layer_mask
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.llava.random_model import TINY, write_random_checkpoint
from allrounder.vlm.masked import masked_logits
from allrounder.vlm.model import load_model
from allrounder.vlm.prompt import model_prompt
from allrounder.vlm.pruned import PruningDecision

TOLERANCE = 1e-4  # of the reference's standard deviation
QUESTIONS = ("what is it?", "how many red circles are there?", "the digits, in order, from left to right:")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Matrices this small take far longer when threads wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def vlms():
    """Gives models by shape, loaded once, with their weights files in all precisions."""
    folder = Path(tempfile.mkdtemp(prefix="export-decisions-"))

    @functools.cache
    def get(shape):
        directory = write_random_checkpoint(folder / shape, shape)
        checkpoint = Checkpoint(directory)
        (directory / FOLDER).mkdir()
        layouts = {}
        for precision in ELEMENT_TYPES:
            layout = lay_out("model", precision, checkpoint.digest, model_tensors(checkpoint.spec), checkpoint.shape)
            write(layout, checkpoint.read, directory / FOLDER / layout.name, silent)
            layouts[precision] = layout
        return load_model(directory), directory, layouts

    yield get
    shutil.rmtree(folder)


class Graphs:
    """Prefill and decode of one pruned spec, run with plain numpy; decoding advances the caches."""

    def __init__(self, loaded, pruned, precision="fp32"):
        vlm, directory, layouts = loaded
        self.vlm, self.pruned = vlm, pruned
        self.dtype = np.float16 if precision == "fp16" else np.float32  # bf16 runs widened
        models = [
            make(pruned, layouts[precision].tensors, ELEMENT_TYPES[precision]) for make in (prefill_graph, decode_graph)
        ]
        self.prefill_session, self.decode_session = (_session(model, directory) for model in models)

    def prefill(self, image_embeds, prompt, token_scores, layer_scores, free_slots=4):
        feeds = {
            "prefix_ids": prompt.prefix_ids.numpy(),
            "suffix_ids": prompt.suffix_ids.numpy(),
            "suffix_lengths": prompt.suffix_lengths.numpy(),
            "image_embeds": image_embeds.numpy().astype(self.dtype),
            "free_slots": np.array([free_slots]),
        }
        feeds |= {"token_scores": token_scores.numpy()} if self.pruned.prunes else {}
        feeds |= {"layer_scores": layer_scores.numpy()} if self.pruned.dynamic else {}
        assert {each.name for each in self.prefill_session.get_inputs()} == set(feeds)
        found = dict(zip(_names(self.prefill_session), self.prefill_session.run(None, feeds), strict=True))
        before = prompt.prefix_ids.shape[1] + prompt.suffix_lengths.numpy()
        self.positions = before + self.pruned.spec.image_tokens
        self.slots = before + self.pruned.pruning.keep
        self.kept = {name: value for name, value in found.items() if name != "logits"}
        return found

    def decode(self, ids):
        feeds = {"input_ids": ids.numpy(), "positions": self.positions} | self.kept
        feeds.pop("keep", None)
        feeds |= {"slots": self.slots} if self.pruned.prunes else {}
        found = dict(zip(_names(self.decode_session), self.decode_session.run(None, feeds), strict=True))
        self.kept |= {name.replace("_out.", "."): value for name, value in found.items() if name != "logits"}
        self.positions, self.slots = self.positions + ids.shape[1], self.slots + ids.shape[1]
        return found["logits"]


def _names(session):
    return [each.name for each in session.get_outputs()]


def _session(model, directory):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # TensorScatter warns that unbound caches are copied
    path = directory / "graph.onnx"
    path.write_bytes(serialized(widened(model)))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _inputs(vlm, batch):
    spec = vlm.spec
    generator = torch.Generator().manual_seed(batch)
    image_embeds = torch.randn(batch, spec.image_tokens, spec.decoder.hidden, generator=generator)
    token_scores = torch.randn(batch, spec.image_tokens, generator=generator)
    layer_scores = torch.randn(batch, spec.decoder.layers, generator=generator)
    answers = torch.randint(5, spec.decoder.vocabulary, (batch, 4), generator=generator)
    return image_embeds, model_prompt(vlm, QUESTIONS[:batch]), token_scores, layer_scores, answers


def _difference(graphs, batch):
    """Returns the largest difference to the masked stock model, prompt and four answer tokens, over its deviation."""
    vlm, pruned = graphs.vlm, graphs.pruned
    image_embeds, prompt, token_scores, layer_scores, answers = _inputs(vlm, batch)
    found = graphs.prefill(image_embeds, prompt, token_scores, layer_scores)
    keep = keep_indices(token_scores, pruned.pruning.keep)
    if pruned.prunes:
        assert found["keep"].tolist() == keep.tolist()
    layers = pruned.pruning.kept_layers or kept_layer_mask(
        layer_scores, pruned.pruning.layers, pruned.pruning.prune_layer
    )
    if pruned.dynamic:
        assert found["layer_mask"].tolist() == layers[0].tolist()
    steps = [graphs.decode(answers[:, :2]), graphs.decode(answers[:, 2:3]), graphs.decode(answers[:, 3:])]
    assert found["logits"].dtype == steps[0].dtype == np.float32
    ours = np.concatenate([found["logits"][:, None], *steps], axis=1)
    wanted = masked_logits(
        vlm, image_embeds, prompt, PruningDecision(keep, layers, pruned.pruning.prune_layer), answers
    ).numpy()
    assert ours.shape == wanted.shape
    return float(np.abs(ours - wanted).max() / wanted.std())


def _pruned(vlm, *, tokens, prune_layer, dynamic):
    depth = vlm.spec.decoder.layers
    kept = None if dynamic else (*range(prune_layer), *range(prune_layer + 1, depth - 1))
    return pruned_spec(vlm.spec, pruning((tokens, depth - 2), prune_layer, kept))


@pytest.mark.parametrize("prune_layer", [0, 2])
@pytest.mark.parametrize("shape", TINY)
def test_dynamic(vlms, shape, prune_layer):
    loaded = vlms(shape)
    vlm = loaded[0]
    pruned = _pruned(vlm, tokens=vlm.spec.image_tokens // 2, prune_layer=prune_layer, dynamic=True)
    assert _difference(Graphs(loaded, pruned), 1) <= TOLERANCE


@pytest.mark.parametrize("prune_layer", [0, 2])
@pytest.mark.parametrize("shape", TINY)
def test_frozen_in_unequal_batches(vlms, shape, prune_layer):
    loaded = vlms(shape)
    vlm = loaded[0]
    pruned = _pruned(vlm, tokens=vlm.spec.image_tokens // 2, prune_layer=prune_layer, dynamic=False)
    graphs = Graphs(loaded, pruned)
    assert _difference(graphs, 1) <= TOLERANCE
    assert _difference(graphs, 3) <= TOLERANCE


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("tokens", ["one", "all"])
def test_one_token_and_all_tokens(vlms, tokens, dynamic):
    loaded = vlms("llama-gqa-tied")
    vlm = loaded[0]
    kept = 1 if tokens == "one" else vlm.spec.image_tokens
    pruned = _pruned(vlm, tokens=kept, prune_layer=2, dynamic=dynamic)
    graphs = Graphs(loaded, pruned)
    assert pruned.prunes == (tokens == "one")
    assert _difference(graphs, 1 if dynamic else 3) <= TOLERANCE


@pytest.mark.parametrize("dynamic", [True, False])
def test_no_layer_beyond_the_gather(vlms, dynamic):
    loaded = vlms("llama-mha")
    vlm = loaded[0]
    pruned = pruned_spec(vlm.spec, pruning((2, 2), 2, None if dynamic else (0, 1)))
    assert _difference(Graphs(loaded, pruned), 1) <= TOLERANCE


def test_the_unpruned_model(vlms):
    loaded = vlms("qwen3-siglip-layers")
    spec = loaded[0].spec
    pruned = pruned_spec(spec, pruning((spec.image_tokens, spec.decoder.layers), 2, tuple(range(spec.decoder.layers))))
    assert _difference(Graphs(loaded, pruned), 3) <= TOLERANCE


@pytest.mark.parametrize(("precision", "most"), [("fp16", 5e-2), ("bf16", 4e-1)])
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("shape", ["llama-gqa-tied", "qwen3-siglip-layers"])
def test_half_precision_is_near(vlms, shape, dynamic, precision, most):
    """Weights, rows and caches have eleven bits or eight; 1.6e-2 and 1e-1 were seen, and a wrong op gives about 1."""
    loaded = vlms(shape)
    vlm = loaded[0]
    pruned = _pruned(vlm, tokens=vlm.spec.image_tokens // 2, prune_layer=2, dynamic=dynamic)
    difference = _difference(Graphs(loaded, pruned, precision), 1 if dynamic else 3)
    assert 1e-4 < difference <= most


def test_a_padded_row_gives_what_it_gives_alone(vlms):
    loaded = vlms("llama-mha")
    vlm = loaded[0]
    graphs = Graphs(loaded, _pruned(vlm, tokens=2, prune_layer=2, dynamic=False))
    image_embeds, prompt, token_scores, layer_scores, answers = _inputs(vlm, 3)
    together = [
        graphs.prefill(image_embeds, prompt, token_scores, layer_scores)["logits"][:, None],
        graphs.decode(answers),
    ]
    for row in range(3):
        one = slice(row, row + 1)
        alone = [
            graphs.prefill(image_embeds[one], prompt.row(row), token_scores[one], layer_scores[one])["logits"][:, None],
            graphs.decode(answers[one]),
        ]
        for whole, single in zip(together, alone, strict=True):
            assert np.abs(whole[one] - single).max() <= TOLERANCE * single.std()


def test_nan_and_ties_in_layer_scores(vlms):
    loaded = vlms("llama-mha")
    vlm = loaded[0]
    graphs = Graphs(loaded, _pruned(vlm, tokens=2, prune_layer=1, dynamic=True))
    image_embeds, prompt, token_scores, _, _ = _inputs(vlm, 1)
    nan, low = float("nan"), float("-inf")
    for scores in ([9.0, nan, 1.0, 1.0, 1.0], [nan, nan, low, low, nan], [0.0, 2.0, nan, 2.0, 1.0]):
        layer_scores = torch.tensor([scores])
        found = graphs.prefill(image_embeds, prompt, token_scores, layer_scores)
        assert found["layer_mask"].tolist() == kept_layer_mask(layer_scores, 3, 1)[0].tolist()
        sizes = [found[f"cache_key.{layer}"].shape[2] for layer in range(5)]
        assert [size > 0 for size in sizes] == found["layer_mask"].tolist()
