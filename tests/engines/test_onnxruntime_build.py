"""The ONNX Runtime backend: what it builds, and what it refuses."""

import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging, publish
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.bundle.references import references
from allrounder.engines.onnxruntime import build as ort_backend
from allrounder.engines.table import BACKENDS, Row
from allrounder.errors import (
    BackendError,
    BundleCorrupt,
    BundleFromFuture,
    EngineUnavailable,
    GraphInvalid,
    InputInvalid,
)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "out" / "demo"


@pytest.fixture
def staging(place):
    with Staging(place) as staging:
        yield staging


def test_entries_say_what_was_frozen(freeze, staging):
    full, lite = ort_backend.build(freeze("full", "par-lite"), staging, BuildOptions())
    assert (full.version, full.pruning.layer_policy, full.pruning.kept_layers) == ("full", "static", tuple(range(8)))
    assert (lite.version, lite.pruning.layer_policy, lite.pruning.kept_layers) == ("par-lite", "dynamic", None)
    assert (lite.pruning.budget(18), lite.pruning.prune_layer, lite.precision) == ((5, 6), 2, "fp32")
    assert (lite.backend, lite.fidelity, lite.latency) == ("onnxruntime", None, None)
    assert full.graphs.router is None
    assert lite.graphs.router is not None
    assert full.graphs.vision == lite.graphs.vision


def test_entries_that_gather_ask_for_the_native_op_where_the_build_does(freeze, staging):
    full, lite = ort_backend.build(freeze("full", "par-lite"), staging, BuildOptions(native_op=True))
    assert (full.native_op, lite.native_op) == (False, True)  # `full` gathers nothing
    assert open_bundle(staging.path).manifest.entries == (full, lite)


def test_graphs_run_from_the_published_bundle(freeze, staging, place):
    (entry,) = ort_backend.build(freeze("par-lite"), staging, BuildOptions())
    publish(staging)
    x, file = np.ones((2, 4), np.float32), place / entry.graphs.decoder
    (result,) = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    tag = onnx.numpy_helper.to_array(onnx.load(file, load_external_data=False).graph.initializer[1])
    np.testing.assert_array_equal(result, x + np.arange(4, dtype=np.float32) + tag)


def test_only_some_of_what_was_frozen(freeze, staging):
    frozen = freeze("full", "par-lite")
    only = frozenset({("par-lite", 2, "dynamic")})
    assert [entry.version for entry in ort_backend.build(frozen, staging, BuildOptions(only=only))] == ["par-lite"]
    for wrong in (frozenset(), frozenset({("par-nano", 2, "dynamic")})):
        with pytest.raises(InputInvalid, match=r"not frozen.*par-lite"):
            ort_backend.build(frozen, staging, BuildOptions(only=wrong))


def test_fp16_is_built_without_a_latency(freeze, staging):
    (entry,) = ort_backend.build(freeze("par-lite", precision="fp16"), staging, BuildOptions())
    assert (entry.precision, entry.latency) == ("fp16", None)


def test_progress_is_told_to_the_end(freeze, staging):
    told = []
    ort_backend.build(freeze("par-lite"), staging, BuildOptions(progress=lambda *step: told.append(step)))
    loading = [step for step in told if step[0] == "loading graphs"]
    assert loading[0][1] == 0
    assert loading[-1][1] == loading[-1][2] == 3


@pytest.mark.parametrize("device", ["cuda", "tpu", ""])
def test_a_device_that_is_not_there(freeze, staging, device, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineUnavailable, match="CPUExecutionProvider") as caught:
        ort_backend.build(freeze("par-lite"), staging, BuildOptions(device=device))
    assert ("onnxruntime-gpu" in str(caught.value)) == (device == "cuda")


def test_a_provider_that_does_not_start_is_no_silent_fall_back(freeze, staging, monkeypatch):
    monkeypatch.setattr(ort_backend, "_PROVIDERS", {"cuda": "AzureExecutionProvider"})
    session = onnxruntime.InferenceSession

    def fall_back(path, options, providers):
        return session(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["AzureExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", fall_back)
    with pytest.raises(EngineUnavailable, match="cannot start"):
        ort_backend.build(freeze("par-lite"), staging, BuildOptions(device="cuda"))


def test_onnx_runtimes_own_words_are_quoted(tmp_path):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Nope", ["x"], ["y"], domain="nowhere")], "g", [x], [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("nowhere", 1)], ir_version=10)
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(BackendError, match=r"graphs/bad\.onnx.*Nope.*onnxruntime 1\."):
        ort_backend.load_graph(tmp_path / "bad.onnx", "graphs/bad.onnx", "CPUExecutionProvider")


@pytest.mark.parametrize("what", ["truncated", "changed", "missing", "link", "no record", "no JSON"])
def test_a_damaged_frozen_directory(freeze, staging, what):
    frozen = freeze("par-lite")
    weights = next((frozen / "graphs/weights").glob("model*"))
    data = weights.read_bytes()
    if what == "truncated":
        weights.write_bytes(data[:-1])
    elif what == "changed":
        weights.write_bytes(data[:-1] + b"!")
    elif what == "missing":
        weights.unlink()
    elif what == "link":
        weights.rename(frozen.parent / "elsewhere")
        weights.symlink_to(frozen.parent / "elsewhere")
    elif what == "no record":
        (frozen / "frozen.json").unlink()
    else:
        (frozen / "frozen.json").write_text("no")
    with pytest.raises(BundleCorrupt):
        ort_backend.build(frozen, staging, BuildOptions())


def test_a_frozen_directory_from_the_future(freeze, staging):
    frozen = freeze("par-lite")
    (frozen / "frozen.json").write_text('{"schema": 4}')
    with pytest.raises(BundleFromFuture):
        ort_backend.build(frozen, staging, BuildOptions())


def test_what_is_not_listed_in_a_frozen_directory_stays_there(freeze, staging):
    frozen = freeze("par-lite")
    (frozen / "notes.txt").write_text("mine")
    ort_backend.build(frozen, staging, BuildOptions())
    assert not (staging.path / "notes.txt").exists()
    open_bundle(staging.path)


def test_backends_are_named():
    assert backend("onnxruntime") is ort_backend
    with pytest.raises(EngineUnavailable, match=r"'nope'.*onnxruntime"):
        backend("nope")


def test_a_backend_whose_library_is_missing(monkeypatch):
    monkeypatch.setitem(BACKENDS, "broken", Row("allrounder.engines.not_there"))
    with pytest.raises(EngineUnavailable, match=r"cannot be imported.*pip install"):
        backend("broken")


def test_importing_it_switches_telemetry_off_and_loads_no_torch(tmp_path):
    code = (
        "import os, sys; import allrounder.engines.onnxruntime.build;"
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'; assert 'torch' not in sys.modules"
    )
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment | {"HOME": str(tmp_path)}, cwd=tmp_path)


def external(name, location):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def test_references_are_found_wherever_a_graph_may_hold_them(tmp_path):
    branch = helper.make_graph([], "branch", [], [], [external("b", "branch.bin")])
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Constant", [], ["k"], value=external("k", "weights/constant.bin")),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [external("i", "weights/a.bin"), external("j", "weights/a.bin")])
    constant = helper.make_node("Constant", [], ["z"], value=external("z", "weights/function.bin"))
    function = helper.make_function("allrounder", "F", [], ["z"], [constant], [helper.make_opsetid("", 18)])
    (tmp_path / "g.onnx").write_bytes(helper.make_model(graph, functions=[function]).SerializeToString())
    assert references(tmp_path / "g.onnx", "graphs/g.onnx") == {
        "graphs/branch.bin",
        "graphs/weights/constant.bin",
        "graphs/weights/a.bin",
        "graphs/weights/function.bin",
    }


@pytest.mark.parametrize("location", ["../outside.bin", "weights/../../x", "/etc/passwd", "a\\b"])
def test_weights_outside_the_graphs_folder_are_refused(tmp_path, location):
    graph = helper.make_graph([], "g", [], [], [external("i", location)])
    (tmp_path / "g.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(GraphInvalid, match="outside its folder"):
        references(tmp_path / "g.onnx", "graphs/g.onnx")


@pytest.mark.parametrize("data", [b"not protobuf", b"\xff" * 100])
def test_a_graph_that_is_not_onnx(tmp_path, data):
    (tmp_path / "g.onnx").write_bytes(data)
    with pytest.raises(GraphInvalid, match="not an ONNX file"):
        references(tmp_path / "g.onnx", "graphs/g.onnx")
