"""`allrounder build --backend tensorrt`, whole, with stand-ins of TensorRT and CUDA that compute in ONNX Runtime."""

import importlib
import json
import sys

import cuda_stub
import pytest
import tensorrt_stub

from allrounder import build_engine, gpus
from allrounder.bundle import open_bundle
from allrounder.engines import tensorrt_library
from allrounder.gpus import Gpu
from allrounder.plans import PLAN
from allrounder.runtime import Runtime
from allrounder.runtime.backend import BACKENDS

LOADED = (BACKENDS["tensorrt"], "allrounder.runtime.tensorrt_session", "allrounder.runtime.tensorrt_cuda")


@pytest.fixture
def machine(monkeypatch):
    """A machine with TensorRT 11.1 and one GPU."""
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_stub.make("11.1.0.106"))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda_stub.make(tensorrt_stub.Streams))
    monkeypatch.setattr(gpus, "gpus", lambda: (Gpu("NVIDIA H100 80GB", 90, "CUDA 13.0"),))
    monkeypatch.setattr(tensorrt_library, "tensorrt_plugin", lambda: None)
    for name in LOADED:
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.import_module(BACKENDS["tensorrt"])
    yield
    for name in LOADED:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "precision", ["fp32", *(pytest.param(each, marks=pytest.mark.slow) for each in ("fp16", "bf16"))]
)
def test_it_votes_builds_measures_and_publishes(machine, tiny, tmp_path, capfd, monkeypatch, precision):
    out = tmp_path / "bundle"
    words = ("--version", "full,par-lite", "--backend", "tensorrt", "--precision", precision)
    monkeypatch.setattr(tensorrt_stub.Builder, "built", [])
    assert build_engine.main(tiny.arguments(out, *words)) == 0
    said = capfd.readouterr()
    assert json.loads(said.out.splitlines()[-1])["bundle"] == str(out)
    assert "plans for TensorRT 11.1.0.106 on SM 90" in said.err
    bundle = open_bundle(out)
    assert len(tensorrt_stub.Builder.built) == sum(path.endswith(PLAN) for path in bundle.manifest.files)  # each once
    full, lite = bundle.manifest.entries
    assert {entry.backend for entry in bundle.manifest.entries} == {"tensorrt"}  # nothing of the vote is left
    assert (lite.layer_policy, lite.gather_layer, len(lite.layer_plan)) == ("frozen", 2, 6)
    for entry in (full, lite):
        assert entry.graphs.decode.endswith(PLAN)
        assert entry.fidelity is not None
        assert entry.latency.machine.gpu == "NVIDIA H100 80GB"
        assert entry.latency.machine.backend == "tensorrt 11.1.0.106"
    assert full.fidelity.agreement.mean == 1
    with Runtime.load(out, version="par-lite") as runtime:
        assert runtime.entry == lite
        answer = runtime.generate(str(tiny.prompts.parent / "0.png"), "what is it?", max_new_tokens=3)
    assert len(answer.token_ids) == 3


def test_routed_layers_are_refused_before_anything_is_written(machine, tiny, tmp_path, capfd):
    out = tmp_path / "bundle"
    words = ("--version", "par-lite", "--backend", "tensorrt", "--layer-policy", "routed")
    assert build_engine.main(tiny.arguments(out, *words)) != 0
    assert "--layer-policy frozen" in capfd.readouterr().err
    assert not out.exists()
