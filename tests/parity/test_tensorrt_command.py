"""`allrounder build --backend tensorrt`, whole, with stand-ins of TensorRT and CUDA that compute in ONNX Runtime."""

import importlib
import json
import sys

import cuda_stub
import pytest
import tensorrt_stub

from allrounder import build_engine
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.table import BACKENDS
from allrounder.engines.tensorrt import gpus
from allrounder.engines.tensorrt import library as tensorrt_library
from allrounder.engines.tensorrt.gpus import Gpu
from allrounder.engines.tensorrt.plan_names import PLAN
from allrounder.runtime import Runtime

LOADED = (BACKENDS["tensorrt"].session, "allrounder.engines.tensorrt.plan_session", "allrounder.engines.tensorrt.cuda")


@pytest.fixture
def machine(monkeypatch):
    """A machine with TensorRT 11.1 and one GPU."""
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_stub.make("11.1.0.106"))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda_stub.make(tensorrt_stub.Streams))
    monkeypatch.setattr(gpus, "gpus", lambda: (Gpu("NVIDIA H100 80GB", 90, "CUDA 13.0"),))
    monkeypatch.setattr(tensorrt_library, "tensorrt_plugin", lambda: None)
    for name in LOADED:
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.import_module(BACKENDS["tensorrt"].session)
    yield
    for name in LOADED:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "precision", ["fp32", *(pytest.param(each, marks=pytest.mark.slow) for each in ("fp16", "bf16"))]
)
def test_it_ranks_builds_measures_and_publishes(machine, tiny, tmp_path, capfd, monkeypatch, precision):
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
    assert {entry.backend for entry in bundle.manifest.entries} == {"tensorrt"}  # nothing of the ranking is left
    assert (lite.pruning.key, len(lite.pruning.kept_layers)) == (("par-lite", 2, "static"), 6)
    for entry in (full, lite):
        assert entry.graphs.decoder.endswith(PLAN)
        assert entry.fidelity is not None
        assert entry.latency.machine.gpu == "NVIDIA H100 80GB"
        assert entry.latency.machine.backend == "tensorrt 11.1.0.106"
    assert full.fidelity.agreement.mean == 1
    with Runtime.load(out, version="par-lite") as runtime:
        assert runtime.entry == lite
        answer = runtime.generate(str(tiny.prompts.parent / "0.png"), "what is it?", max_new_tokens=3)
    assert len(answer.token_ids) == 3


def test_dynamic_layers_are_refused_before_anything_is_written(machine, tiny, tmp_path, capfd):
    out = tmp_path / "bundle"
    words = ("--version", "par-lite", "--backend", "tensorrt", "--layer-policy", "dynamic")
    assert build_engine.main(tiny.arguments(out, *words)) != 0
    assert "--layer-policy static" in capfd.readouterr().err
    assert not out.exists()
