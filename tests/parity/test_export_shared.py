"""Vision and router graphs in ONNX Runtime against the stock tower and the eager router, on every tiny shape."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import functools

import numpy as np
import onnxruntime
import pytest
import torch

from allrounder.export.graph.writer import serialized
from allrounder.export.router import PREFIX, RouterShape, router_graph, router_tensors
from allrounder.export.verify.prompts import prompt_feeds, random_layout
from allrounder.export.vision import vision_graph
from allrounder.export.weights.layout import ELEMENT_TYPES, FOLDER, lay_out, model_tensors, write
from allrounder.export.weights.widened import widened
from allrounder.images.pixels import pixel_values
from allrounder.progress import silent
from allrounder.router.model import MetaRouter
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.model import load_model
from allrounder.vlm.prompt import prompt_batch
from allrounder.vlm.pruned import PrunedModel
from allrounder.vlm.random.model import TINY, write_random_checkpoint

# Of the reference's standard deviation; fp16 has eleven bits, bf16 eight.
TOLERANCE = {"fp32": 1e-4, "fp16": 5e-2, "bf16": 4e-1}
ROWS = {"fp32": np.float32, "fp16": np.float16, "bf16": np.float32}  # bf16 runs widened
TEXTS = ((3, 4), (2, 3, 5), (1, 1, 1, 2), (6,))  # rows of text, an image between every two


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Matrices this small take far longer when threads wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def vlms(tmp_path_factory):
    @functools.cache
    def get(shape):
        directory = write_random_checkpoint(tmp_path_factory.mktemp("model") / shape, shape)
        (directory / FOLDER).mkdir()
        return load_model(directory), directory

    return get


def model_weights(directory, precision):
    checkpoint = Checkpoint(directory)
    layout = lay_out("model", precision, checkpoint.digest, model_tensors(checkpoint.spec), checkpoint.shape)
    if not (directory / FOLDER / layout.name).exists():
        write(layout, checkpoint.read, directory / FOLDER / layout.name, silent)
    return layout.tensors


def router_weights(router, spec, directory, precision):
    state = router.state_dict()
    needed = router_tensors(spec, RouterShape(router.attention, len(router.layers), router.scope))
    layout = lay_out(
        "router", precision, router.attention, needed, lambda n: tuple(state[n.removeprefix(PREFIX)].shape)
    )
    write(layout, lambda name: state[name.removeprefix(PREFIX)], directory / FOLDER / layout.name, silent)
    assert {name.removeprefix(PREFIX) for name in layout.tensors} == set(state)
    return layout.tensors


def run(model, directory, feeds):
    path = directory / "graph.onnx"
    path.write_bytes(serialized(widened(model)))
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)


def difference(found, wanted):
    assert found.shape == tuple(wanted.shape)
    return float(np.abs(found.astype(np.float32) - wanted.numpy()).max() / wanted.numpy().std())


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("shape", TINY)
def test_vision_equals_the_stock_tower(vlms, shape, precision):
    vlm, directory = vlms(shape)
    size = vlm.images.size
    tiles = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    graph = vision_graph(vlm.spec, vlm.images, model_weights(directory, precision), ELEMENT_TYPES[precision])
    (image_embeds,) = run(graph, directory, {"tiles": tiles})
    assert image_embeds.dtype == ROWS[precision]
    pixels = torch.from_numpy(pixel_values(vlm.images, tiles))
    assert difference(image_embeds, PrunedModel(vlm).image_embeds(pixels)) <= TOLERANCE[precision]


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize(
    ("attention", "layers", "scope"),
    [
        ("causal", 1, "prompt"),
        ("bidirectional", 1, "prompt"),
        ("causal", 2, "prompt"),
        ("causal", 1, "image"),
        ("bidirectional", 2, "image"),
    ],
)
@pytest.mark.parametrize("shape", TINY)
def test_router_equals_the_eager_one(vlms, shape, attention, layers, scope, precision):
    vlm, directory = vlms(shape)
    torch.manual_seed(1)
    router = MetaRouter(vlm.spec, vlm.model.config.text_config, attention, layers, scope=scope).eval()
    weights = model_weights(directory, precision) | router_weights(router, vlm.spec, directory, precision)
    graph = router_graph(vlm.spec, RouterShape(attention, layers, scope), weights, ELEMENT_TYPES[precision])
    for texts in TEXTS:
        layout = random_layout(vlm.spec, texts, torch.Generator().manual_seed(len(texts)))
        prompt = prompt_batch([layout])
        image_embeds = torch.randn(layout.image_tokens, vlm.spec.decoder.hidden)
        feeds = prompt_feeds(layout) | {"image_embeds": image_embeds.numpy().astype(ROWS[precision])}
        found = run(graph, directory, feeds)
        with torch.no_grad():
            wanted = router(PrunedModel(vlm).embeddings(image_embeds[None], prompt), prompt)
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours.dtype == np.float32  # rank logits never tie for want of bits
            if ours.size:
                assert difference(ours, theirs[0]) <= TOLERANCE[precision]
