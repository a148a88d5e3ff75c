"""Providers of ONNX Runtime: what is handed over, what is refused, and which device each tensor is bound on.

There is no GPU here: where the library would need one, a stand-in does what was seen of onnxruntime-gpu 1.31.1.
"""

import logging
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_bundle
import msgspec
import numpy as np
import onnxruntime
import pytest
from prunings import pruning

from allrounder.commands import cli
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.onnxruntime import session as onnxruntime_backend
from allrounder.engines.onnxruntime.providers import check_placement, providers_for
from allrounder.engines.options import EngineOptions
from allrounder.errors import BackendError, EngineUnavailable, InputInvalid
from allrounder.runtime import Runtime, local_latency
from allrounder.runtime.engine import Engine

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
ON_CUDA = EngineOptions(threads=1, device="cuda")
ON_TENSORRT = EngineOptions(threads=1, device="cuda:1", provider="tensorrt")

# What onnxruntime-gpu 1.31.1 left to the CPU beside its CUDA provider, of the demo bundle's vision graph, and of the
# first edition's graphs of a router, a prompt and a new token.
LEFT_TO_CPU = {
    "vision": {"Concat": 1, "Gather": 1},
    "router": {"Sub": 1, "Add": 3, "Concat": 2, "Unsqueeze": 1, "Squeeze": 2},
    "prompt": {"Squeeze": 1, "Concat": 1, "Sub": 2, "Add": 1, "Unsqueeze": 1},
    "new token": {"Squeeze": 1, "Add": 1, "Concat": 1},
}


@pytest.fixture
def bundle(tmp_path):
    return fake_bundle.write_bundle(tmp_path / "bundle")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"provider": "rocm", "device": "cuda"}, "unknown provider.*'rocm'.*'cuda' or 'tensorrt'"),
        ({"provider": None}, "unknown provider"),
        ({"provider": "tensorrt"}, "TensorRT needs a GPU.*give device='cuda' as well"),
    ],
)
def test_impossible_options_are_refused(options, said):
    with pytest.raises(InputInvalid, match=said):
        EngineOptions(**options)


def test_the_cpu_has_no_options(bundle):
    assert providers_for(EngineOptions(), bundle / "graphs/vision.onnx") == [(CPU, {})]


def test_cuda_computes_in_the_precision_of_the_graph(bundle):
    found = providers_for(EngineOptions(device="cuda:3"), bundle / "graphs/vision.onnx")
    assert found == [(CUDA, {"device_id": "3", "use_tf32": "0"}), (CPU, {})]


def test_tensorrt_comes_before_cuda_and_the_cpu(bundle, cache):
    (first, options), *behind = providers_for(ON_TENSORRT, bundle / "graphs/vision.onnx")
    assert first == TENSORRT
    assert behind == [(CUDA, {"device_id": "1", "use_tf32": "0"}), (CPU, {})]
    assert options["device_id"] == "1"
    assert not {"trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable"} & options.keys()  # the graph says


def test_tensorrt_is_not_given_what_it_would_get_wrong(bundle, cache):
    options = providers_for(ON_TENSORRT, bundle / "graphs/vision.onnx")[0][1]
    excluded = options["trt_op_types_to_exclude"].split(",")
    assert {"Attention", "If", "TensorScatter", "TokenGather", "TopK"} < set(excluded)
    assert {"NonMaxSuppression", "NonZero", "RoiAlign"} < set(excluded)  # of the list that ours replaces
    assert len(excluded) == len(set(excluded))


def test_each_graph_has_a_folder_of_engines(bundle, cache):
    graphs = [bundle / f"graphs/{name}.onnx" for name in ("vision", "router", "vision")]
    folders = [Path(providers_for(ON_TENSORRT, graph)[0][1]["trt_engine_cache_path"]) for graph in graphs]
    assert folders[0] == folders[2] != folders[1]
    assert all(folder.parent == cache / "allrounder/onnxruntime-tensorrt" for folder in folders)
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
    timing = {providers_for(ON_TENSORRT, graph)[0][1]["trt_timing_cache_path"] for graph in graphs}
    assert timing == {str(folders[0].parent)}


def test_without_a_cache_the_log_says_so(bundle, cache, caplog):
    cache.write_text("a file in the folder's place")
    with caplog.at_level(logging.WARNING, logger="allrounder.runtime"):
        options = providers_for(ON_TENSORRT, bundle / "graphs/vision.onnx")[0][1]
    assert (options["trt_engine_cache_enable"], options["trt_timing_cache_enable"]) == ("0", "0")
    assert "cannot be kept" in caplog.text


def test_a_graph_that_is_not_there_is_named(tmp_path, cache):
    with pytest.raises(BackendError, match=r"cannot be read.*none\.onnx"):
        providers_for(ON_TENSORRT, tmp_path / "none.onnx")


def placed(path):
    """Returns where ONNX Runtime places a graph's operators with the CPU provider alone."""
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return onnxruntime_backend._on_cpu(onnxruntime.InferenceSession(path, settings, providers=[CPU]))


@pytest.mark.parametrize("name", ["vision", "router", "full.decoder", "t2-l2.decoder"])
def test_a_graph_that_works_on_the_cpu_is_refused(bundle, name):
    path = bundle / f"graphs/{name}.onnx"
    on_cpu = placed(path)
    assert on_cpu["MatMul"] >= 1
    with pytest.raises(EngineUnavailable, match=rf"{name}\.onnx on cuda; got: .*MatMul x {on_cpu['MatMul']}.*remedy"):
        check_placement(on_cpu, path, ON_CUDA)


def test_a_built_bundles_graphs_on_the_cpu_are_refused(tiny_bundle):
    graphs = sorted(tiny_bundle.glob("graphs/*.onnx"))
    assert {path.name.partition("-")[0] for path in graphs} == {"vision", "router", "decoder"}
    for path in graphs:
        on_cpu = placed(path)
        with pytest.raises(EngineUnavailable, match=rf"Attention x {on_cpu['Attention']}\b"):
            check_placement(on_cpu, path, ON_CUDA)


def test_a_graph_of_shapes_passes(tmp_path):
    graph = fake_bundle.Graph([("x", fake_bundle._F32, ["n", 3])], [("y", fake_bundle._I64, [2])])
    rows = graph.op("Shape", ["x"], end=1)
    graph.op("Concat", [graph.op("Add", [rows, 1]), graph.op("Sub", [rows, 1])], "y", axis=0)
    graph.save(tmp_path / "shapes.onnx")
    on_cpu = placed(tmp_path / "shapes.onnx")
    assert on_cpu == Counter(Shape=1, Add=1, Sub=1, Concat=1)
    check_placement(on_cpu, tmp_path / "shapes.onnx", ON_CUDA)


@pytest.mark.parametrize("kind", LEFT_TO_CPU)
def test_what_the_cuda_provider_leaves_of_our_graphs_passes(kind):
    check_placement(LEFT_TO_CPU[kind], Path(f"{kind}.onnx"), ON_CUDA)


@pytest.mark.parametrize("on_cpu", [{"Add": 48}, {"Pad": 1}, {"Add": 2, "Attention": 1}, {"TokenGather": 1}])
def test_work_on_the_cpu_is_refused_with_its_operators(on_cpu):
    name, count = list(on_cpu.items())[-1]
    with pytest.raises(EngineUnavailable, match=f"got: {name} x {count};"):
        check_placement(on_cpu, Path("decoder.onnx"), ON_CUDA)


class Session:
    """Stands in for `onnxruntime.InferenceSession` of onnxruntime-gpu."""

    starting = (TENSORRT, CUDA, CPU)  # of the providers that are asked for, those whose libraries are there
    on_cpu = ("Shape",)
    error = None
    made: list = []  # noqa: RUF012  # emptied by the fixture

    def __init__(self, path, settings, *, providers, **rest):
        self.made.append((Path(path).name, [name for name, _ in providers], rest))
        self._settings = settings
        if self.error:
            raise self.error
        self._providers = [name for name, _ in providers if name in self.starting]

    def get_providers(self):
        return self._providers

    def get_provider_graph_assignment_info(self):
        assert self._settings.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
        nodes = [SimpleNamespace(op_type=name) for name in self.on_cpu]
        return [SimpleNamespace(ep_name=CPU, get_nodes=lambda: nodes)]

    def get_inputs(self):
        return []

    get_outputs = get_inputs


@pytest.fixture
def library(monkeypatch, cache):
    """Puts the stand-in in the library's place; its class is returned, to be changed."""
    session = type("Changed", (Session,), {"made": []})
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    return session


def open_vision(bundle, options):
    return onnxruntime_backend.open_session(bundle / "graphs/vision.onnx", options)


@pytest.mark.parametrize("options", [ON_CUDA, ON_TENSORRT])
def test_a_session_on_a_gpu_is_opened_without_the_librarys_own_fallback(bundle, library, options):
    open_vision(bundle, options)
    ((name, providers, rest),) = library.made
    assert (name, rest) == ("vision.onnx", {"enable_fallback": 0})
    assert providers == [TENSORRT, CUDA, CPU][options is ON_CUDA :]


@pytest.mark.parametrize(("options", "missing"), [(ON_CUDA, CUDA), (ON_TENSORRT, TENSORRT)])
def test_a_provider_that_does_not_start_is_named(bundle, library, options, missing):
    library.starting = tuple({TENSORRT, CUDA, CPU} - {missing})
    with pytest.raises(EngineUnavailable, match=f"could not use the {missing}.*remedy: install the .* libraries"):
        open_vision(bundle, options)


def test_tensorrt_without_its_libraries_is_unavailable(bundle, library):
    library.error = RuntimeError("Please install TensorRT libraries")
    with pytest.raises(EngineUnavailable, match=r"TensorrtExecutionProvider.*Please install.*libnvinfer\.so\.10"):
        open_vision(bundle, ON_TENSORRT)


def test_a_graph_that_the_library_refuses_is_a_backend_error(bundle, library):
    library.error = Exception("no such operator")
    with pytest.raises(BackendError, match=r"refuses a graph.*vision\.onnx.*no such operator"):
        open_vision(bundle, ON_TENSORRT)


def test_work_on_the_cpu_is_refused_at_opening(bundle, library):
    library.on_cpu = ("Shape", "Pad", "Pad")
    with pytest.raises(EngineUnavailable, match=r"vision\.onnx on cuda; got: Pad x 2;"):
        open_vision(bundle, ON_CUDA)


@pytest.mark.parametrize(("options", "missing"), [(ON_CUDA, CUDA), (ON_TENSORRT, TENSORRT)])
def test_a_library_without_the_provider_is_named(bundle, library, monkeypatch, options, missing):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    for call in (onnxruntime_backend.fingerprint, lambda each: open_vision(bundle, each)):
        with pytest.raises(EngineUnavailable, match=f"has no {missing}.*onnxruntime-gpu"):
            call(options)


def test_tensorrt_is_another_machine_as_far_as_latency_goes(bundle, library):
    options = EngineOptions(threads=1, device="cuda:1")
    machines = [onnxruntime_backend.fingerprint(each) for each in (options, ON_TENSORRT)]
    assert [machine.backend for machine in machines] == [
        f"onnxruntime {onnxruntime.__version__}",
        f"onnxruntime {onnxruntime.__version__} tensorrt",
    ]
    opened = open_bundle(bundle)
    files = {local_latency._cache_file(opened, ON_TENSORRT, (machine,)) for machine in machines}
    assert len(files) == 2


def test_dynamic_layers_are_not_for_tensorrt(bundle, library):
    dynamic = msgspec.structs.replace(fake_bundle.entry("t2-l2"), pruning=pruning((2, 2), 1, None, "t2-l2"))
    with pytest.raises(EngineUnavailable, match=r"t2-l2.*--layer-policy static, or choose provider='cuda'"):
        Engine.open(open_bundle(bundle), dynamic, ON_TENSORRT)
    Engine.open(open_bundle(bundle), dynamic, ON_CUDA)


class Binding:
    """Stands in for `IOBinding`: an input is copied where it is bound, as ONNX Runtime does across devices."""

    def __init__(self):
        self.inputs = {}

    def bind_ortvalue_input(self, name, value):
        self.inputs[name] = value.numpy().copy()

    def bind_output(self, name, device, number):
        assert (name, device, number) == ("logits", "cuda", 0)

    def get_outputs(self):
        return ["made by the library"]


def test_a_step_on_a_gpu_sees_what_its_cells_hold_now():
    seen = []
    bindings: Any = SimpleNamespace(
        get_providers=lambda: [CUDA, CPU],
        io_binding=Binding,
        get_outputs=lambda: [SimpleNamespace(name="logits")],
        run_with_iobinding=lambda binding: seen.append(int(binding.inputs["slots"][0])),
    )
    cell = onnxruntime_backend._Cell(np.array([5], np.int64))
    bound = onnxruntime_backend._Bound(bindings, "decoder.onnx", {"slots": cell.tensor}, {}, ("cuda", 0))
    for value in (5, 6, 7):
        cell.set(np.array([value]))
        assert bound.run() == {"logits": "made by the library"}
    assert seen == [5, 6, 7]


def test_the_option_is_in_the_command_line_and_in_load(bundle, tmp_path, capsys):
    words = ["run", "--bundle", str(bundle), "--image", "x.png", "--question", "what?", "--provider", "tensorrt"]
    assert cli.main(words) != 0
    assert "TensorRT needs a GPU" in capsys.readouterr().err
    with pytest.raises(InputInvalid, match="TensorRT needs a GPU"):
        Runtime.load(bundle, provider="tensorrt")
