"""``--backend tensorrt-rtx``: plans of frozen graphs by a real parser and builder of NVIDIA's, which need no GPU.

TensorRT's own builder needs one; its Python package, its ONNX parser and the form of graphs that it is given are the
same. So what is shown here stands for both as far as it goes: the graphs are taken, and become the layers that they
should. What plans compute and how fast they are only a GPU tells.
"""

import gc
import json
from collections import Counter

import pytest
from onnx import parser
from prunings import pruning

from allrounder import build_engine
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.tensorrt import build as plans_of
from allrounder.engines.tensorrt import gpus
from allrounder.engines.tensorrt.form import static_form
from allrounder.engines.tensorrt.plan_names import RTX, read_target
from allrounder.errors import BackendError, EngineUnavailable
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.runtime import Runtime
from allrounder.versions import keep_of

rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (pip install 'allrounder[test]')")
# The bindings' own destructors warn.
pytestmark = pytest.mark.filterwarnings("ignore:Use del obj:DeprecationWarning")
PLAN = (0, 1, 2, 4, 5, 7)
DECISIONS = [("full", 0), ("par-lite", 2), ("par-lite", 0)]
PLANNED = ("vision", "router", "decoder")


@pytest.fixture
def networks(monkeypatch):
    """Gives the layers of each network that is built, by type."""
    seen = []

    class Builder(rtx.Builder):
        def build_serialized_network_to_stream(self, network, config, writer):
            layers = [network.get_layer(index) for index in range(network.num_layers)]
            seen.append(Counter(layer.type.name for layer in layers))
            return super().build_serialized_network_to_stream(network, config, writer)

    monkeypatch.setattr(rtx, "Builder", Builder)
    monkeypatch.setattr(plans_of, "_built", {})
    yield seen
    gc.collect()  # what an error held, while its destructor's warning is expected


def frozen_decisions(vlm, router, folder, precision):
    freezer = Freezer(vlm, router, folder, FreezeOptions(precision), lambda *_: None)
    freezer.shared()
    for name, prune_layer in DECISIONS:
        plan = PLAN if name != "full" else tuple(range(freezer.spec.decoder.layers))
        freezer.add(pruning((keep_of(name), len(plan)), prune_layer, plan, name))
    freezer.finish()
    return folder


@pytest.mark.parametrize(
    "precision", ["fp32", *(pytest.param(each, marks=pytest.mark.slow) for each in ("fp16", "bf16"))]
)
def test_every_graph_becomes_a_plan_of_the_layers_it_should(networks, tiny, tmp_path, precision):
    frozen = frozen_decisions(tiny.vlm, tiny.router, tmp_path / "frozen", precision)
    with Staging(tmp_path / "b") as staging:
        entries = backend("tensorrt-rtx").build(frozen, staging, BuildOptions())
        assert sorted((entry.version, entry.pruning.prune_layer) for entry in entries) == sorted(DECISIONS)
        paths = [[getattr(entry.graphs, kind) for kind in PLANNED] for entry in entries]
        names = {path for each in paths for path in each if path}
        for path in names:
            assert read_target(path, RTX).version[:2] >= RTX.oldest
            assert (staging.path / path).stat().st_size > 10_000
        assert not any(path.endswith(".onnx") for path in names)
    assert len(networks) == len(names)
    decoders = [layers for layers in networks if layers["KV_CACHE_UPDATE"]]
    # Each key and each value of a layer is one update in place, and each layer's attention is one.
    assert sorted(layers["KV_CACHE_UPDATE"] for layers in decoders) == [2 * 6, 2 * 6, 2 * 8]
    for layers in decoders:
        assert layers["ATTENTION_INPUT"] == layers["ATTENTION_OUTPUT"] == layers["KV_CACHE_UPDATE"] // 2
        assert layers["ROTARY_EMBEDDING"] == layers["KV_CACHE_UPDATE"]
    assert sorted(layers["CUMULATIVE"] for layers in decoders) == [0, 2, 2]  # a gather lists tokens and rows
    assert not any(layers[kind] for layers in networks for kind in ("CONDITION", "TRIP_LIMIT", "PLUGIN_V3", "NON_ZERO"))


def parsed(text):
    """Returns whether the parser takes a graph, its layers, and the network, which must outlive them."""
    builder = rtx.Builder(rtx.Logger(rtx.Logger.INTERNAL_ERROR))
    network = builder.create_network(0)
    reader = rtx.OnnxParser(network, rtx.Logger(rtx.Logger.INTERNAL_ERROR))
    taken = reader.parse(parser.parse_model(text).SerializeToString())
    return taken, [network.get_layer(index) for index in range(network.num_layers)], (builder, network, reader)


QKV = "float[1,4,3,8] q, float[1,2,16,8] k, float[1,2,16,8] v"
ATTENTION = '<ir_version: 11, opset_import: ["" : 24]> g ({inputs}) => (float[1,4,3,8] y) {{ y = Attention({names}) }}'


@pytest.mark.parametrize(
    ("inputs", "names", "heard"),
    [
        (f"{QKV}, int64[1] lengths", 'q, k, v, "", "", "", lengths', 3),
        (f"{QKV}, bool[1,1,3,16] mask", "q, k, v, mask", 4),
    ],
)
def test_it_hears_masks_and_no_lengths(inputs, names, heard):
    """Silently: why engines for TensorRT get masks. Where this fails, the parser has learned it."""
    taken, layers, _alive = parsed(ATTENTION.format(inputs=inputs, names=names))
    assert taken
    (attention,) = (layer for layer in layers if layer.type == rtx.LayerType.ATTENTION_INPUT)
    assert attention.num_inputs == heard


@pytest.mark.parametrize(("slots", "takes"), [("16", True), ("S", False)])
def test_a_cache_has_a_number_of_slots(slots, takes):
    ports = f"float[1,2,{slots},8] cache, float[1,2,1,8] new, int64[1] where) => (float[1,2,{slots},8] y"
    taken, *_ = parsed(
        f'<ir_version: 11, opset_import: ["" : 24]> g ({ports}) {{ y = TensorScatter(cache, new, where) }}'
    )
    assert taken == takes


def test_what_it_refuses_is_said_in_its_words(networks, tiny, tmp_path, monkeypatch):
    """Attention that no one kernel computes, without the permission to use several."""
    monkeypatch.setattr(plans_of, "parsed_form", static_form)
    frozen = frozen_decisions(tiny.vlm, tiny.router, tmp_path / "frozen", "fp32")
    with Staging(tmp_path / "b") as staging, pytest.raises(BackendError, match="decomposable") as caught:
        backend("tensorrt-rtx").build(frozen, staging, BuildOptions())
    assert "(tensorrt_rtx 1." in str(caught.value.got)


@pytest.mark.usefixtures("networks")
def test_the_command_rankings_builds_and_publishes_what_it_cannot_run(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpus, "gpus", tuple)  # as in CI, also where there is one
    out = tmp_path / "b"
    assert build_engine.main(tiny.arguments(out, "--backend", "tensorrt-rtx")) == 0
    printed, told = capsys.readouterr()
    (built,) = json.loads(printed.splitlines()[-1])["entries"]
    assert (built["backend"], built["fidelity"], built["latency"]) == ("tensorrt-rtx", None, None)
    assert "not run" in told
    assert "no GPU was asked" in told
    (entry,) = open_bundle(out).manifest.entries
    assert read_target(entry.graphs.decoder, RTX).hardware == "ampere"
    with pytest.raises(EngineUnavailable, match="NVIDIA GPU"):
        Runtime.load(out)
