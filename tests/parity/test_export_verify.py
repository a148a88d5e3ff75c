"""`verify` on honest and on tampered frozen directories."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import shutil
from dataclasses import replace
from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from prunings import pruning

from allrounder.errors import GraphInvalid, InputInvalid, VerificationFailed
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.export.graph.writer import serialized
from allrounder.export.verify import verify as module
from allrounder.export.verify.compare import TOLERANCE
from allrounder.export.verify.extract import all_nodes
from allrounder.export.verify.verify import verify
from allrounder.router.checkpoint import save_router
from allrounder.router.model import MetaRouter
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.config import read_config
from allrounder.vlm.random.model import TINY, write_random_checkpoint


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Matrices this small take far longer when threads wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_sources(folder, shape, **router):
    vlm = write_random_checkpoint(folder / "model", shape)
    checkpoint = Checkpoint(vlm)
    torch.manual_seed(0)
    made = MetaRouter(checkpoint.spec, read_config(vlm).text_config, **router)
    save_router(made, folder / "router", model_digest=checkpoint.digest)
    return vlm, folder / "router", checkpoint.spec


def freeze(vlm, router, spec, out, **options):
    freezer = Freezer(vlm, router, out, FreezeOptions(**options))
    freezer.shared()
    depth = spec.decoder.layers
    half = (Fraction(1, 2), depth - 2)
    freezer.add(pruning((1, depth), 0, tuple(range(depth)), "full"))
    freezer.add(pruning(half, 2, None, "half"))
    freezer.add(pruning(half, 0, tuple(range(1, depth - 1)), "half"))
    return freezer.finish()


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """One model, its router and what was frozen from them."""
    folder = tmp_path_factory.mktemp("verify")
    vlm, router, spec = make_sources(folder, "llama-gqa-tied", attention="bidirectional")
    return folder / "frozen", vlm, router, freeze(vlm, router, spec, folder / "frozen")


@pytest.mark.parametrize("shape", TINY)
def test_every_family_is_proved(tmp_path, shape):
    number = TINY.index(shape)
    attention = ("causal", "bidirectional")[number % 2]
    scope = ("prompt", "image")[number % 3 == 2]
    vlm, router, spec = make_sources(tmp_path, shape, attention=attention, layers=1 + number % 2, scope=scope)
    freeze(vlm, router, spec, tmp_path / "frozen")
    report = verify(tmp_path / "frozen", vlm, router)
    assert report.graphs == 5
    assert 0 < report.worst.difference <= TOLERANCE["fp32"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_proved(tmp_path, precision):
    vlm, router, spec = make_sources(tmp_path, "qwen2-siglip")
    freeze(vlm, router, spec, tmp_path / "frozen", precision=precision)
    report = verify(tmp_path / "frozen", vlm, router)
    assert 0 < report.worst.difference <= TOLERANCE[precision]


def test_large_models_are_proved_layer_by_layer_only(honest, monkeypatch):
    folder, vlm, router, _ = honest
    whole = verify(folder, vlm, router)
    monkeypatch.setattr(module, "SMALL", 0)
    monkeypatch.setattr(module, "load_model", lambda _: pytest.fail("the whole model was loaded"))
    assert 50 < verify(folder, vlm, router).comparisons < whole.comparisons


@pytest.mark.parametrize("small", [0, module.SMALL])
@pytest.mark.parametrize("edit", [{"tied": True}, {"norm_eps": 0.5}, {"activation": "gelu"}])
def test_a_misread_decoder_is_found_whatever_its_size(tmp_path, monkeypatch, small, edit):
    """The reference is the stock model of the files: it shares no reading with what the graphs were written from."""
    refuse_misread(tmp_path, monkeypatch, small, lambda spec: replace(spec, decoder=replace(spec.decoder, **edit)))


@pytest.mark.parametrize("small", [0, module.SMALL])
@pytest.mark.parametrize("edit", [{"feature_layers": (1,)}, {"feature_layers": (3,)}, {"activation": "silu"}])
def test_a_misread_tower_is_found_whatever_its_size(tmp_path, monkeypatch, small, edit):
    refuse_misread(tmp_path, monkeypatch, small, lambda spec: replace(spec, vision=replace(spec.vision, **edit)))


def test_rotary_frequencies_that_were_misread_are_found(tmp_path, monkeypatch):
    def slower(spec):
        frequencies = tuple(value / 2 for value in spec.decoder.rope.inverse_frequencies)
        rope = replace(spec.decoder.rope, inverse_frequencies=frequencies)
        return replace(spec, decoder=replace(spec.decoder, rope=rope))

    refuse_misread(tmp_path, monkeypatch, 0, slower)


def refuse_misread(folder, monkeypatch, small, edit):
    """Freezes and verifies a model of which every stage has the same wrong spec."""
    vlm = write_random_checkpoint(folder / "model", "llama-mha")
    honest = Checkpoint.__init__

    def misread(self, directory):
        honest(self, directory)
        self.spec = edit(self.spec)

    monkeypatch.setattr(Checkpoint, "__init__", misread)
    monkeypatch.setattr(module, "SMALL", small)
    freezer = Freezer(vlm, None, folder / "frozen")
    freezer.shared()
    depth = freezer.spec.decoder.layers
    freezer.add(pruning((1, depth), 0, tuple(range(depth)), "full"))
    freezer.finish()
    with pytest.raises(VerificationFailed):
        verify(folder / "frozen", vlm, None)


def test_what_was_proved_before_is_not_compared_again(honest):
    folder, vlm, router, frozen = honest
    whole, nothing = verify(folder, vlm, router), verify(folder, vlm, router, proved=frozen.files)
    assert nothing == (0, 0, None)
    known = {name for name in frozen.files if name != frozen.versions[-1].decoder}
    assert 0 < verify(folder, vlm, router, proved=known).comparisons < whole.comparisons


def edited(honest, tmp_path, name, edit):
    """Returns a copy of the frozen directory in which one graph was edited."""
    out = shutil.copytree(honest[0], tmp_path / "frozen")
    model = onnx.load(out / name, load_external_data=False)
    edit(model)
    (out / name).write_bytes(serialized(model))
    return out


def refused(honest, tmp_path, name, edit, error):
    out = edited(honest, tmp_path, name, edit)
    with pytest.raises(error) as caught:
        verify(out, honest[1], honest[2])
    return str(caught.value)


def node_of(model, op, prefix=""):
    return next(node for node in all_nodes(model.graph.node) if node.op_type == op and node.name.startswith(prefix))


def test_a_wrong_epsilon_in_one_layer_is_found(honest, tmp_path):
    def edit(model):
        epsilon = next(a for a in node_of(model, "RMSNormalization", "layers.3.").attribute if a.name == "epsilon")
        epsilon.f = 0.1

    name = honest[3].versions[1].decoder
    message = refused(honest, tmp_path, name, edit, VerificationFailed)
    assert name in message
    assert "layers.3.hidden" in message


@pytest.mark.parametrize("branch", ["then_branch", "else_branch"])
def test_both_branches_of_a_dynamic_layer_are_run(honest, tmp_path, branch):
    def edit(model):
        layer = next(node for node in model.graph.node if node.op_type == "If" and node.name.startswith("layers.4."))
        inside = next(attribute.g for attribute in layer.attribute if attribute.name == branch)
        rows = next(node for node in inside.node if node.output[0] == inside.output[0].name)
        inside.node.add(op_type="Neg", input=["layers.4.negated"], output=[rows.output[0]], name="negated")
        rows.output[0] = "layers.4.negated"

    name = honest[3].versions[1].decoder
    assert "layers.4.hidden" in refused(honest, tmp_path, name, edit, VerificationFailed)


@pytest.fixture(scope="module", params=["fp16", "bf16"])
def half(request, tmp_path_factory):
    """The same in half precision, whose tolerance is wide."""
    folder = tmp_path_factory.mktemp(request.param)
    vlm, router, spec = make_sources(folder, "llama-gqa-tied", attention="bidirectional")
    return folder / "frozen", vlm, router, freeze(vlm, router, spec, folder / "frozen", precision=request.param)


@pytest.mark.parametrize("fault", ["other weights", "no norm", "no rotation", "sees all"])
def test_faults_are_found_in_half_precision(half, tmp_path, fault):
    def edit(model):
        if fault == "other weights":
            gate = node_of(model, "MatMul", "layers.3.mlp.gate")
            gate.input[1] = gate.input[1].replace("gate_proj", "up_proj")
        elif fault == "no norm":
            norm = node_of(model, "RMSNormalization", "layers.3.")
            epsilon = next(attribute for attribute in norm.attribute if attribute.name == "epsilon")
            epsilon.f = 10.0  # drowns the mean square
        elif fault == "no rotation":
            turned = node_of(model, "RotaryEmbedding", "layers.3.")
            turned.input[1], turned.input[2] = turned.input[2], turned.input[1]  # cosines for sines
        else:
            attention = node_of(model, "Attention", "layers.3.")
            causal = next(attribute for attribute in attention.attribute if attribute.name == "is_causal")
            causal.i = 0

    name = half[3].versions[2].decoder  # frozen, without If
    message = refused(half, tmp_path, name, edit, VerificationFailed)
    assert ("beyond.sine" if fault == "no rotation" else "layers.3.hidden") in message


def test_exchanged_weights_are_found(honest, tmp_path):
    def edit(model):
        gate = node_of(model, "MatMul", "layers.4.run.mlp.gate")
        gate.input[1] = gate.input[1].replace("gate_proj", "up_proj")

    assert "layers.4" in refused(honest, tmp_path, honest[3].versions[1].decoder, edit, VerificationFailed)


def test_a_layer_on_the_wrong_clock_is_found(honest, tmp_path):
    def edit(model):
        node_of(model, "TensorScatter", "layers.3.").input[2] = "slots"

    assert "slots" in refused(honest, tmp_path, honest[3].versions[1].decoder, edit, GraphInvalid)


def test_a_changed_weight_is_found(honest, tmp_path):
    out = shutil.copytree(honest[0], tmp_path / "frozen")
    model = onnx.load(out / honest[3].versions[0].decoder, load_external_data=False)
    tensor = next(each for each in model.graph.initializer if each.name.endswith("layers.2.mlp.down_proj.weight"))
    place = {each.key: each.value for each in tensor.external_data}
    with (out / "graphs" / place["location"]).open("r+b") as file:
        file.seek(int(place["offset"]))
        file.write(np.float32(9.0).tobytes())
    with pytest.raises(VerificationFailed, match=r"layers\.2\.hidden"):
        verify(out, honest[1], honest[2])


@pytest.mark.parametrize("fault", ["nan", "ties", "images", "positions"])
def test_a_gather_by_another_rule_is_found(honest, tmp_path, fault):
    def edit(model):
        (function,) = model.functions
        node = {each.output[0]: each for each in function.node}
        if fault == "nan":
            node["own_score"].input[0] = "scores"  # NaN is then better than nothing and worse than nothing
        elif fault == "ties":
            node["earlier"].op_type = "Greater"
        elif fault == "images":
            node["better"].input[1] = "wins"  # ranked over all images
        else:
            node["gathered_position_ids"].input[1] = "rows_axis"

    message = refused(honest, tmp_path, honest[3].versions[1].decoder, edit, (VerificationFailed, GraphInvalid))
    assert "gather." in message or "keep_indices" in message or fault == "positions"


def test_a_layer_that_is_not_kept_is_found(honest, tmp_path):
    version = honest[3].versions[2]
    assert version.pruning.kept_layers == (1, 2, 3)

    def edit(model):
        extra = helper.make_tensor("decoder.layers.4.mlp.up_proj.weight", 1, [1], [0.0])
        model.graph.initializer.append(extra)

    assert "not kept" in refused(honest, tmp_path, version.decoder, edit, GraphInvalid)


def test_one_attention_too_many_is_found(honest, tmp_path):
    def edit(model):
        copy = helper.make_node("x", [], [])
        copy.CopyFrom(node_of(model, "Attention"))
        copy.output[0] = copy.name = "more"
        index = list(model.graph.node).index(node_of(model, "Attention"))
        model.graph.node.insert(index + 1, copy)

    message = refused(honest, tmp_path, honest[3].versions[2].decoder, edit, GraphInvalid)
    assert "number of Attention nodes" in message


def test_a_foreign_domain_is_found(honest, tmp_path):
    def edit(model):
        node_of(model, "Sigmoid").domain = "com.example"
        model.opset_import.append(helper.make_opsetid("com.example", 1))

    assert "com.example" in refused(honest, tmp_path, honest[3].graphs.vision, edit, GraphInvalid)


def test_a_gather_that_is_missing_is_found(honest, tmp_path):
    def edit(model):
        gather = node_of(model, "TokenGather")
        gather.op_type, gather.domain = "Split", ""

    refused(honest, tmp_path, honest[3].versions[1].decoder, edit, GraphInvalid)


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [("offset", "17", "aligned"), ("location", "../outside.bin", "elsewhere"), ("offset", str(1 << 40), "outside")],
)
def test_weights_that_lie_wrong_are_found(honest, tmp_path, key, value, word):
    def edit(model):
        tensor = next(each for each in model.graph.initializer if each.external_data)
        next(each for each in tensor.external_data if each.key == key).value = value

    assert word in refused(honest, tmp_path, honest[3].versions[0].decoder, edit, GraphInvalid)


def test_a_weight_inside_the_graph_is_found(honest, tmp_path):
    def edit(model):
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(20_000, np.float32), "large"))

    assert "inside the graph" in refused(honest, tmp_path, honest[3].graphs.vision, edit, GraphInvalid)


@pytest.mark.parametrize("data", [b"", b"not a graph at all"])
def test_what_is_no_graph_is_refused(honest, tmp_path, data):
    out = shutil.copytree(honest[0], tmp_path / "frozen")
    (out / honest[3].graphs.vision).write_bytes(data)
    with pytest.raises(GraphInvalid):
        verify(out, honest[1], honest[2])


def test_another_model_is_refused(honest, tmp_path):
    other = write_random_checkpoint(tmp_path / "other", "llama-gqa-tied", seed=5)
    with pytest.raises(InputInvalid, match="another model"):
        verify(honest[0], other, honest[2])


def test_a_router_is_needed_where_one_was_frozen(honest):
    with pytest.raises(InputInvalid, match="router"):
        verify(honest[0], honest[1], None)
