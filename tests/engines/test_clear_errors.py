"""The four errors that every backend must say clearly: no package, another version, another GPU, another's engine.

Each row gives how it comes about and what its message must hold: the package and the version that are here, what was
wanted, and something that the user can do. A backend without a row, or with one that is no error of ours, fails.
"""

import importlib.util
import json
import os
import sys
from types import ModuleType

import onnxruntime
import pytest
import tensorrt_stub

from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.onnxruntime import build as engines_onnxruntime
from allrounder.engines.releases import Release
from allrounder.engines.table import BACKENDS
from allrounder.engines.tensorrt import gpus
from allrounder.engines.tensorrt import library as tensorrt_library
from allrounder.engines.tensorrt.gpus import Gpu
from allrounder.engines.tensorrt.plan_names import RTX, PlanTarget, check_target, plan_name
from allrounder.engines.tensorrt_llm.release import require_engine_path, require_gpu, require_pytorch_path
from allrounder.errors import AllRounderError, EngineUnavailable
from allrounder.progress import silent
from allrounder.serving.tensorrt_llm.engine import EngineRunner

PLAN = plan_name("decode", "0" * 12, PlanTarget((10, 15, 1), 90))
RTX_PLAN = plan_name("decode", "0" * 12, PlanTarget((1, 7, 1), 80, hardware="ampere"), RTX)


class Machine:
    """What a row may change about this machine."""

    def __init__(self, monkeypatch, folder):
        self.patch, self.folder = monkeypatch, folder

    def without(self, package, *modules):
        """No such package can be imported; ours that imported it were not imported yet."""
        self.patch.setitem(sys.modules, package, None)
        for module in modules:
            self.patch.delitem(sys.modules, module, raising=False)

    def tensorrt(self, version="10.16.1.11", sm=90):
        self.patch.setitem(sys.modules, "tensorrt", tensorrt_stub.make(version))
        self.patch.setattr(gpus, "gpus", lambda: (Gpu("NVIDIA A GPU", sm, "CUDA 13.0"),) if sm else ())
        self.patch.setattr(tensorrt_library, "tensorrt_plugin", lambda: None)

    def rtx(self, version="1.7.1.116", sm=89):
        self.patch.setitem(sys.modules, "tensorrt_rtx", tensorrt_stub.make(version))
        self.patch.setattr(gpus, "gpus", lambda: (Gpu("NVIDIA A GPU", sm, "CUDA 13.0"),))

    def tensorrt_llm(self, version):
        info = self.folder / f"tensorrt_llm-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: {version}\n")
        self.patch.syspath_prepend(str(self.folder))

    def gpu(self, capability):
        """The driver's tool tells of this GPU."""
        tool = self.folder / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\necho {capability}\n")
        tool.chmod(0o755)
        self.patch.setenv("PATH", f"{self.folder}{os.pathsep}{os.environ['PATH']}")

    def providers(self, *names):
        self.patch.setattr(onnxruntime, "get_available_providers", lambda: list(names))


@pytest.fixture
def machine(monkeypatch, tmp_path):
    return Machine(monkeypatch, tmp_path)


def built(name):
    """Opens the place of a build, which is where a library is asked for first."""

    def act(machine):
        with backend(name).opened(machine.folder / "bundle", force=False, progress=silent):
            pass

    return act


def imported(module):
    """Imports a module of ours anew, without a trace."""

    def act(_machine):
        spec = importlib.util.find_spec(module)
        fresh: ModuleType = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(fresh)

    return act


def no_onnxruntime(machine):
    machine.without("onnxruntime")
    imported("allrounder.engines.onnxruntime.session")(machine)


def no_onnxruntime_to_build(machine):
    machine.without("onnxruntime", BACKENDS["onnxruntime"].build)
    backend("onnxruntime")


def no_cuda_provider(machine):
    machine.providers("CPUExecutionProvider")
    engines_onnxruntime._provider("cuda")


def no_openvino(machine):
    machine.without("openvino")
    imported("allrounder.engines.openvino.session")(machine)


def no_openvino_to_build(machine):
    machine.without("openvino", BACKENDS["openvino"].build)
    backend("openvino")


def openvino_on_a_gpu(_machine):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    backend("openvino").build("static", None, BuildOptions(device="cuda"))


def no_tensorrt(machine):
    machine.without("tensorrt")
    imported("allrounder.engines.tensorrt.session")(machine)


def no_tensorrt_to_build(machine):
    machine.without("tensorrt")
    built("tensorrt")(machine)


def old_tensorrt(machine):
    machine.tensorrt("10.14.1.48")
    built("tensorrt")(machine)


def no_gpu(machine):
    machine.tensorrt(sm=0)
    built("tensorrt")(machine)


def other_architecture(_machine):
    check_target(PLAN, version=(10, 15, 1), sm=80)


def other_tensorrt(_machine):
    check_target(PLAN, version=(11, 1, 0), sm=90)


def no_rtx(machine):
    machine.without("tensorrt_rtx")
    imported(BACKENDS["tensorrt-rtx"].session)(machine)


def no_rtx_to_build(machine):
    machine.without("tensorrt_rtx")
    built("tensorrt-rtx")(machine)


def old_rtx(machine):
    machine.rtx("1.6.1.120")
    built("tensorrt-rtx")(machine)


def datacenter_gpu(machine):
    machine.rtx(sm=90)
    imported(BACKENDS["tensorrt-rtx"].session)(machine)


def rtx_plan_on_another_gpu(_machine):
    check_target(RTX_PLAN, version=(1, 7, 1), sm=100, flavour=RTX)


def other_rtx(_machine):
    check_target(RTX_PLAN, version=(1, 8, 0), sm=89, flavour=RTX)


def no_tensorrt_llm(_machine):
    require_engine_path()


def no_tensorrt_llm_to_serve(_machine):
    require_pytorch_path()


def tensorrt_llm_without_engines(machine):
    machine.tensorrt_llm("1.3.0rc22")
    require_engine_path()


def unknown_tensorrt_llm(machine):
    machine.tensorrt_llm("2.0.0")
    require_pytorch_path()


def old_gpu(machine):
    machine.gpu("7.5")
    require_gpu(Release(1, 2, 1))


def engine_of_another(machine):
    machine.tensorrt_llm("1.2.1")
    (machine.folder / "engine").mkdir()
    config = {"version": "1.1.0", "build_config": {"max_batch_size": 1}}
    (machine.folder / "engine" / "config.json").write_text(json.dumps(config))
    EngineRunner.open(machine.folder, machine.folder / "engine")


# Kinds of errors, and which parts of the message they must have.
KINDS = {
    "package": ("what", "got", "remedy"),
    "version": ("what", "got", "wanted", "remedy"),
    "gpu": ("what", "got", "remedy"),
    "engine": ("what", "where", "got", "wanted", "remedy"),
}
# By backend and kind: how it comes about and words of the message, or why there is no such error.
ROWS = {
    "onnxruntime": {
        "package": [
            (no_onnxruntime, ("onnxruntime", "pip install")),
            (no_onnxruntime_to_build, ("onnxruntime", "pip install")),
        ],
        "version": "the package's bounds hold it; a graph that one cannot read is refused in its own words",
        "gpu": [(no_cuda_provider, ("CPUExecutionProvider", "onnxruntime-gpu"))],
        "engine": "its engines are graphs, for any version and any device",
    },
    "openvino": {
        "package": [(no_openvino, ("openvino", "pip install")), (no_openvino_to_build, ("openvino", "pip install"))],
        "version": "the package's bounds hold it; a graph that one cannot read is refused in its own words",
        "gpu": [(openvino_on_a_gpu, ("cuda", "cpu"))],
        "engine": "its engines are graphs, for any version",
    },
    "checkpoint": dict.fromkeys(KINDS, "it writes files, with no library but those of every build"),
    "tensorrt": {
        "package": [
            (no_tensorrt, ("tensorrt", "pip install")),
            (no_tensorrt_to_build, ("tensorrt", "pip install")),
        ],
        "version": [(old_tensorrt, ("10.14.1.48", "10.15", "pip install -U"))],
        "gpu": [(no_gpu, ("GPU", "nvidia-smi")), (other_architecture, ("SM 80", "SM 90", "--force"))],
        "engine": [(other_tensorrt, (PLAN, "11.1.0", "10.15", "--force"))],
    },
    "tensorrt-rtx": {
        "package": [
            (no_rtx, ("tensorrt_rtx", "pip install")),
            (no_rtx_to_build, ("tensorrt_rtx", "pip install")),
        ],
        "version": [(old_rtx, ("1.6.1", "1.7", "pip install -U"))],
        "gpu": [
            (datacenter_gpu, ("TensorRT-RTX", "SM 90", "SM 80, 86, 89, 120, 121", "--backend tensorrt")),
            (rtx_plan_on_another_gpu, ("SM 100", "--backend tensorrt")),
        ],
        "engine": [(other_rtx, (RTX_PLAN, "TensorRT-RTX 1.8.0", "1.7", "--backend tensorrt-rtx --force"))],
    },
    "tensorrt-llm": {
        "package": [
            (no_tensorrt_llm, ("tensorrt_llm", "1.0.0 to 1.2.1", "install")),
            (no_tensorrt_llm_to_serve, ("tensorrt_llm", "1.4.0rc1", "install")),
        ],
        "version": [
            (tensorrt_llm_without_engines, ("1.3.0rc22", "1.2.1", "--backend checkpoint")),
            (unknown_tensorrt_llm, ("2.0.0", "1.4.0rc1", "install a release")),
        ],
        "gpu": [(old_gpu, ("7.5", "8.0", "build.sh"))],
        "engine": [(engine_of_another, ("1.1.0", "1.2.1", "build.sh"))],
    },
}
CASES = [
    pytest.param(kind, act, words, id=f"{name}-{kind}-{act.__name__}")
    for name, kinds in ROWS.items()
    for kind, rows in kinds.items()
    if not isinstance(rows, str)
    for act, words in rows
]


def test_every_backend_has_a_row_for_every_kind():
    assert set(BACKENDS) == set(ROWS)
    assert all(set(kinds) == set(KINDS) for kinds in ROWS.values())


@pytest.mark.parametrize(("kind", "act", "words"), CASES)
def test_it_says_what_is_here_what_is_wanted_and_what_to_do(machine, kind, act, words):
    with pytest.raises(AllRounderError) as caught:
        act(machine)
    error = caught.value
    assert type(error) is EngineUnavailable
    assert [part for part in KINDS[kind] if not getattr(error, part)] == []
    message = str(error)
    assert [word for word in words if word not in message] == []
