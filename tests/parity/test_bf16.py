"""The demo model in bfloat16: its graphs lose no more than the stock model in bfloat16 loses against its own float32.

The graphs are run in two ways: by OpenVINO, with the settings of its engines, and in float32 with each op's result
rounded, by ONNX Runtime, whose own bfloat16 is for GPUs. Token scores are given, the same to all.
"""

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import openvino
import pytest
import torch
from onnx import numpy_helper
from prunings import pruning

from allrounder import tensors
from allrounder.chat.messages import question
from allrounder.demo.prompts import examples
from allrounder.demo.scenes import Split
from allrounder.engines.graphs.flat import flat
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.export.verify.extract import all_nodes, run
from allrounder.export.weights.widened import widened
from allrounder.images.pixels import pixel_values, prepare_images
from allrounder.layout import keep_counts
from allrounder.router.selection import keep_indices
from allrounder.runtime.engine import layout_feeds
from allrounder.versions import EVERYTHING
from allrounder.vlm.model import load_model
from allrounder.vlm.prompt import model_layouts, prompt_batch
from allrounder.vlm.pruned import PrunedModel, PruningDecision

MODELS = Path(__file__).parents[2] / "models"
WORSE = 1.5  # times what stock transformers loses by bfloat16
QUARTER = Fraction(1, 4)
KEPT = (*range(12), *range(18, 24))  # of par-lite
ANSWER = torch.tensor([[5, 9, 70, 42, 3]])  # any tokens: all are given the same
QUESTIONS = 4


class Case(NamedTuple):
    """One question under one decision, and the stock model's logits of prompt and answer tokens."""

    feeds: dict[str, np.ndarray]  # of vision and of the decoder's prompt, but for image tokens and caches
    exact: np.ndarray  # float32
    stock: np.ndarray  # bfloat16
    kept_rows: int  # of the prompt, from K on


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """`full` and static `par-lite` in bfloat16, by name."""
    folder = tmp_path_factory.mktemp("bf16") / "frozen"
    freezer = Freezer(MODELS / "demo", MODELS / "demo-router", folder, FreezeOptions("bf16"))
    freezer.shared()
    freezer.add(pruning((EVERYTHING, 24), 0, tuple(range(24)), "full"))
    freezer.add(pruning((QUARTER, len(KEPT)), 2, KEPT, "par-lite"))
    return folder, {version.pruning.version: version for version in freezer.finish().versions}, freezer.finish().graphs


@pytest.fixture(scope="module")
def cases():
    """Questions by version, each with what the stock model says in both types."""
    exact, stock = (load_model(MODELS / "demo", dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    generator, made = torch.Generator().manual_seed(0), {"full": [], "par-lite": []}
    for example in examples(Split.TEST, QUESTIONS):
        tiles = prepare_images(exact.images, [np.asarray(example.image)]).tiles
        pixels = torch.from_numpy(pixel_values(exact.images, tiles))
        (layout,) = model_layouts(exact, [question(example.question)])
        prompt = prompt_batch([layout])
        scores = torch.randn(1, exact.spec.image_tokens, generator=generator)
        for name, keep, layers in (("full", EVERYTHING, tuple(range(24))), ("par-lite", QUARTER, KEPT)):
            kept = keep_indices(scores, prompt.image_of, keep)
            decision = PruningDecision(kept, layers, 0 if name == "full" else 2)
            logits = [_scored(PrunedModel(vlm), pixels, prompt, decision) for vlm in (exact, stock)]
            feeds = {
                **layout_feeds(layout),
                tensors.TILES: tiles,
                tensors.TOKEN_SCORES: scores[0].numpy(),
                tensors.KEEP_COUNTS: np.array(keep_counts(layout, keep)),
            }
            made[name].append(Case(feeds, *logits, layout.text_tokens + kept.shape[1]))
    return made


@torch.no_grad()
def _scored(pruned, pixels, prompt, decision):
    return pruned.score(pruned.image_embeds(pixels)[None], prompt, decision, ANSWER).float().numpy()[0]


def in_openvino(model, folder):
    """Runs a graph as OpenVINO's engines do; bfloat16 stays what it is between graphs."""
    path = folder / "graphs" / "run.flat.onnx"
    onnx.save(flat(model), path)
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def call(feeds):
        request = compiled.create_infer_request()
        request.infer({port.any_name: feeds[port.any_name] for port in compiled.inputs})
        outputs = {port.any_name: request.get_tensor(port) for port in compiled.outputs}
        assert all(
            (tensor.element_type == openvino.Type.bf16) == name.startswith(("cache", "image_embeds"))
            for name, tensor in outputs.items()
        )
        return outputs | {"request": request}

    def zeros(shape):
        return openvino.Tensor(np.zeros(shape, np.uint16), shape, openvino.Type.bf16)

    return call, zeros


def step_by_step(model, folder):
    """Runs a graph in float32, each result rounded."""
    wide = widened(model)
    return (lambda feeds: run(wide, feeds, folder / "graphs")), lambda shape: np.zeros(shape, np.float32)


def caches_of(decoder, sizes, zeros):
    """Zeroed caches of a decoder graph; ``sizes`` gives the extents that have names."""
    shapes = {
        value.name: [dim.dim_value or sizes[dim.dim_param] for dim in value.type.tensor_type.shape.dim]
        for value in decoder.graph.input
        if value.name.startswith("cache_")
    }
    return {name: zeros(shape) for name, shape in shapes.items()}


def logits_of(graphs, decoder, case):
    """Returns the logits [A, V] of prompt and answer; ``graphs`` run vision and ``decoder``."""
    (embed_image, _), (decode, zeros) = graphs
    rows, count = case.feeds[tensors.INPUT_IDS].shape[1], ANSWER.shape[1]
    caches = caches_of(decoder, {"B": 1, "C": rows + count, "C_kept": case.kept_rows + count}, zeros)
    image_embeds = embed_image(case.feeds)[tensors.IMAGE_EMBEDS]
    clocks = {name: np.zeros(1, np.int64) for name in (tensors.SLOTS, tensors.KEPT_SLOTS)}
    asked = {tensors.IMAGE_EMBEDS: image_embeds, tensors.LOGITS_TO_KEEP: np.ones(1, np.int64)}
    found = decode(case.feeds | caches | clocks | asked)
    caches = {name.replace("_out.", "."): value for name, value in found.items() if "_out." in name}
    none = (tensors.IMAGE_INDEX, tensors.IMAGE_OF, tensors.KEEP_COUNTS)
    step = {
        **dict.fromkeys(none, np.zeros(0, np.int64)),
        tensors.INPUT_IDS: ANSWER.numpy(),
        tensors.IMAGE_EMBEDS: zeros([0, image_embeds.shape[1]]),
        tensors.TOKEN_SCORES: np.zeros(0, np.float32),
        tensors.POSITION_IDS: np.arange(rows, rows + count)[None, None],
        tensors.SLOTS: np.array([rows]),
        tensors.KEPT_SLOTS: np.array([case.kept_rows]),
        tensors.LOGITS_TO_KEEP: np.array([count]),
    }
    more = decode(caches | step)
    logits = [np.array(getattr(each[tensors.LOGITS], "data", each[tensors.LOGITS])) for each in (found, more)]
    assert all(each.dtype == np.float32 for each in logits)
    return np.concatenate([logits[0][0], logits[1][0, :-1]])


def error(found, exact):
    """Returns the root of the mean square difference over the deviation."""
    return float(np.sqrt(np.mean((found - exact) ** 2)) / exact.std())


def errors(cases, make, models, folder):
    """Returns ours and the stock model's error over all cases."""
    graphs = [make(model, folder) for model in models]
    ours = np.concatenate([logits_of(graphs, models[1], case) for case in cases])
    exact, stock = (np.concatenate([getattr(case, name) for case in cases]) for name in ("exact", "stock"))
    return error(ours, exact), error(stock, exact)


def models_of(frozen, name):
    folder, versions, shared = frozen
    paths = (shared.vision, versions[name].decoder)
    return folder, [onnx.load(folder / path, load_external_data=False) for path in paths]


WAYS = pytest.mark.parametrize(
    "make", [step_by_step, pytest.param(in_openvino, marks=pytest.mark.slow)], ids=lambda make: make.__name__
)


@WAYS
@pytest.mark.parametrize("name", ["full", "par-lite"])
def test_bfloat16_costs_what_it_costs_the_stock_model(frozen, cases, name, make):
    folder, models = models_of(frozen, name)
    ours, stock = errors(cases[name], make, models, folder)
    assert 0 < ours <= WORSE * stock


def norm_with_a_large_epsilon(model):
    for node in all_nodes(model.graph.node):
        if node.op_type == "RMSNormalization":
            next(each for each in node.attribute if each.name == "epsilon").f = 1.0


def softmax_of_unscaled_products(model):
    for node in all_nodes(model.graph.node):
        if node.op_type == "Attention":
            node.attribute.append(onnx.helper.make_attribute("scale", 1.0))


def angles_in_bfloat16(model):
    """Positions beyond 256 are rounded, and angles by up to a radian."""
    for node in list(model.graph.node):
        if node.op_type in ("Cos", "Sin"):
            for suffix, kind in (("short", onnx.TensorProto.BFLOAT16), ("long", onnx.TensorProto.FLOAT)):
                name = f"{node.name}.{suffix}"
                cast = onnx.helper.make_node("Cast", [node.input[0]], [name], name=name, to=kind)
                model.graph.node.insert(list(model.graph.node).index(node), cast)
                node.input[0] = name


@WAYS
@pytest.mark.parametrize("spoil", [norm_with_a_large_epsilon, softmax_of_unscaled_products, angles_in_bfloat16])
def test_a_graph_that_normalises_attends_or_rotates_otherwise_is_beyond_that(frozen, cases, spoil, make):
    folder, models = models_of(frozen, "par-lite")
    for model in models[1:]:
        spoil(model)
    ours, stock = errors(cases["par-lite"][:2], make, models, folder)
    assert ours > 2 * WORSE * stock


def test_the_models_own_bytes_are_in_the_graphs(frozen):
    """The demo checkpoint holds bfloat16: no weight is rounded, and linear layers are turned around."""
    folder, models = models_of(frozen, "full")
    vlm = load_model(MODELS / "demo", dtype=torch.bfloat16).model.state_dict()
    (name,) = (name for name in vlm if name.endswith("layers.3.mlp.down_proj.weight"))
    tensor = next(t for t in models[1].graph.initializer if t.name == "decoder.layers.3.mlp.down_proj.weight")
    stored = numpy_helper.to_array(tensor, str(folder / "graphs"))
    assert stored.view(np.int16).tolist() == vlm[name].T.contiguous().view(torch.int16).tolist()
