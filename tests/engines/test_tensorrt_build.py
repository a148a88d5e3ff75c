"""The TensorRT backend against a stand-in of its package: what it refuses, what it asks for, how plans are named."""

import errno
import sys
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import pytest
import tensorrt_stub as stub
from prunings import pruning

from allrounder.engines.backends import Asked, BuildOptions, backend
from allrounder.engines.bundle.publish import Staging, publish
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.tensorrt import build as backend_file
from allrounder.engines.tensorrt import gpus
from allrounder.engines.tensorrt import library as tensorrt_library
from allrounder.engines.tensorrt.gpus import Gpu
from allrounder.engines.tensorrt.plan import PlanOptions
from allrounder.engines.tensorrt.plan_names import PlanTarget, read_target
from allrounder.errors import BackendError, BundleError, EngineUnavailable, InputInvalid
from allrounder.export.freezer import FreezeOptions, Freezer
from allrounder.progress import silent
from allrounder.pruning import pruning_config
from allrounder.versions import EVERYTHING


def asked(prune_layer=2, policy="static", version="par-lite", backend="tensorrt"):
    model = {"layers": 8, "prune_layer": prune_layer}
    return Asked(backend, (pruning_config(version, **model, layer_policy=policy),), "fp16", ("--out", "b"))


DECISION = (0, 1, 2, 4, 5, 7)


@pytest.fixture
def here(monkeypatch):
    """Installs a stand-in of TensorRT and of one GPU; returns what does it."""

    def install(version="10.16.1.11", sm=90, plugin=None):
        monkeypatch.setitem(sys.modules, "tensorrt", stub.make(version))
        monkeypatch.setattr(gpus, "gpus", lambda: (Gpu("NVIDIA H100 80GB", sm, "CUDA 13.0"),) if sm else ())
        monkeypatch.setattr(tensorrt_library, "tensorrt_plugin", lambda: plugin)
        monkeypatch.setattr(stub.Registry, "fails", False)
        monkeypatch.setattr(stub.Registry, "loaded", [])
        monkeypatch.setattr(stub.Builder, "built", [])
        monkeypatch.setattr(stub.Gpu, "sm", sm)

    install()
    return install


@pytest.fixture(scope="module")
def frozen(tiny, tmp_path_factory):
    """full and par-lite, frozen, and what a ranking is run on."""
    folder = tmp_path_factory.mktemp("tensorrt") / "frozen"
    freezer = Freezer(tiny.vlm, tiny.router, folder, FreezeOptions("fp32"), lambda *_: None)
    freezer.shared()
    lite, full = (Fraction(1, 4), 6), (EVERYTHING, 8)
    freezer.add(pruning(full, 0, tuple(range(8)), "full"))
    freezer.add(pruning(lite, 2, DECISION, "par-lite"))
    freezer.add(pruning(lite, 2, None, "par-lite"))
    freezer.finish()
    return folder


LITE = frozenset({("par-lite", 2, "static")})


@pytest.mark.parametrize("prune_layer", [0, 2, 5])
def test_tokens_may_leave_anywhere(prune_layer):
    backend_file.check(asked(prune_layer))
    backend_file.check(asked(policy="dynamic", version="full"))  # `full` is static, whatever is said


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_dynamic_layers_are_refused_with_the_line_that_works(name):
    with pytest.raises(InputInvalid, match="both branches") as caught:
        backend(name).check(asked(policy="dynamic", backend=name))
    assert caught.value.remedy == (
        f"allrounder build --backend {name} --version par-lite --prune-layer 2 --layer-policy static "
        "--precision fp16 --out b"
    )


def test_plans_for_many_gpus_have_no_options(frozen, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", stub.make("1.7.1.116"))
    with Staging(tmp_path / "b") as staging, pytest.raises(InputInvalid, match="no options"):
        backend("tensorrt-rtx").build(frozen, staging, BuildOptions(only=LITE), PlanOptions(effort=5))


def test_it_is_in_the_table_and_imports_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert backend("tensorrt") is backend_file


def opened(tmp_path):
    with backend_file.opened(tmp_path / "bundle", force=False, progress=silent) as output:
        return output.notes


def test_a_missing_package_is_said_before_any_work(here, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineUnavailable, match=r"cannot be imported.*pip install tensorrt"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("install", "words"),
    [
        ({"version": "10.14.1.48"}, r"too old.*10\.14\.1\.48.*10\.15 or newer.*TensorScatter"),
        ({"sm": 0}, r"no such GPU.*nvidia-smi"),
    ],
)
def test_an_old_library_and_a_machine_without_a_gpu_are_refused(here, tmp_path, install, words):
    here(**install)
    with pytest.raises(EngineUnavailable, match=words):
        opened(tmp_path)


def test_a_plugin_that_does_not_load_is_no_silent_fall_back(here, tmp_path, monkeypatch):
    here(plugin=tmp_path / "plugin.so")
    monkeypatch.setattr(stub.Registry, "fails", True)
    with pytest.raises(BackendError, match=r"plugin\.so.*against TensorRT 10"):
        opened(tmp_path)


def test_the_result_says_what_its_plans_run_on(here, tmp_path):
    assert "TensorRT 10.16.1.11 on SM 90 (NVIDIA H100 80GB)" in opened(tmp_path)[0]
    assert "no plugin" in opened(tmp_path)[0]
    here(plugin=tmp_path / "plugin.so")
    assert "with the gather op's plugin" in opened(tmp_path)[0]
    assert stub.Registry.loaded == [str(tmp_path / "plugin.so")]


@pytest.mark.parametrize(("version", "flags"), [("10.15.1.29", 2), ("10.16.1.11", 2), ("11.1.0.106", 0)])
def test_entries_hold_plans_and_one_graph(here, frozen, tmp_path, version, flags):
    here(version)
    with Staging(tmp_path / "bundle") as staging:
        told = []
        options = BuildOptions(only=LITE, progress=lambda *step: told.append(step))
        (entry,) = backend_file.build(frozen, staging, options)
        publish(staging)
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.entries == (entry,)
    assert entry.backend == "tensorrt"
    assert (entry.pruning.key, entry.pruning.kept_layers) == (("par-lite", 2, "static"), DECISION)
    graphs = entry.graphs
    target = PlanTarget(tuple(map(int, version.split("."))), 90)
    for kind in ("vision", "router", "decoder"):
        path = getattr(graphs, kind)
        assert path.startswith(f"graphs/{kind}-")
        assert read_target(path) == target
    assert not [path for path in bundle.manifest.files if "weights" in path]  # plans hold their own
    assert {network.flags for network, _ in stub.Builder.built} == {flags}  # strongly typed: 10 must be told
    names = {task for task, _, _ in told}
    assert any("Building Engine" in name and "decoder" in name for name in names)
    assert not any("Timing" in name for name in names)
    for name in names:
        steps = [(done, total) for task, done, total in told if task == name]
        assert steps[-1][0] == steps[-1][1]


def test_profiles_come_from_the_limits(here, frozen, tmp_path):
    with Staging(tmp_path / "bundle") as staging:
        backend_file.build(frozen, staging, BuildOptions(only=LITE))
        limits = staging.manifest.limits
    asked = {}
    for network, config in stub.Builder.built:
        asked[network.model.graph.name] = [profile.shapes for profile in config.profiles]
    ((low, usual, high),) = (each["tiles"] for each in asked["vision"])
    assert [each[0] for each in (low, usual, high)] == [1, 1, limits.images]
    (router,) = asked["router"]
    assert router["image_embeds"] == ((1, 32), (16, 32), (limits.image_tokens, 32))
    one, several, prompt = asked["decoder"]
    longest = limits.text_tokens + limits.image_tokens
    assert one["input_ids"] == ((1, 1),) * 3
    assert one["image_embeds"] == several["image_embeds"] == ((0, 32),) * 3
    assert several["input_ids"][2] == (1, limits.new_tokens)
    assert several["logits_to_keep"] == tuple(shape[1:] for shape in several["input_ids"])
    assert (prompt["input_ids"][0], prompt["input_ids"][2]) == ((1, 1), (1, longest))
    assert prompt["image_embeds"] == ((0, 32), (16, 32), (limits.image_tokens, 32))
    assert prompt["keep_counts"] == ((0,), (1,), (limits.images,))
    assert prompt["tokens_to_keep"] == ((0,), (4,), (4 * limits.images,))
    assert prompt["logits_to_keep"] == ((1,),) * 3


def test_configuration(here, frozen, tmp_path):
    chosen = PlanOptions(newer=True, hardware="ampere", effort=5, workspace=1 << 30)
    with Staging(tmp_path / "bundle") as staging:
        (entry,) = backend_file.build(frozen, staging, BuildOptions(only=LITE), chosen)
    target = read_target(entry.graphs.decoder)
    assert (target.newer, target.hardware) == (True, "ampere")
    for _, config in stub.Builder.built:
        assert {flag.name for flag in config.flags_set} == {"VERSION_COMPATIBLE"}  # and no TF32
        assert config.hardware_compatibility_level.name == "AMPERE_PLUS"
        assert config.builder_optimization_level == 5
        assert {pool.name: size for pool, size in config.pools.items()} == {"WORKSPACE": 1 << 30}


def test_only_plans_that_gather_need_the_plugin(here, frozen, tmp_path):
    here(plugin=tmp_path / "plugin.so")
    with Staging(tmp_path / "bundle") as staging:
        full, lite = backend_file.build(frozen, staging, BuildOptions(only=frozenset({("full", 0, "static"), *LITE})))
    assert read_target(lite.graphs.decoder).plugin
    assert not any(read_target(path).plugin for path in (lite.graphs.router, full.graphs.decoder))
    assert lite.graphs.vision == full.graphs.vision


def test_kernels_are_timed_once_per_user(here, frozen, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Staging(tmp_path / "one") as staging:
        backend_file.build(frozen, staging, BuildOptions(only=LITE))
    (file,) = (tmp_path / "cache/allrounder/tensorrt").iterdir()
    assert file.name == "timing-10.16.1.11-sm90-NVIDIA-H100-80GB.bin"
    file.write_bytes(b"what was timed before")
    with Staging(tmp_path / "two") as staging:
        backend_file.build(frozen, staging, BuildOptions(only=LITE))
    assert file.read_bytes() == b"what was timed before"


def test_a_plan_that_is_there_is_not_built_again(here, frozen, tmp_path):
    for _ in range(2):
        with Staging(tmp_path / "bundle") as staging:
            (entry,) = backend_file.build(frozen, staging, BuildOptions(only=LITE))
            publish(staging)
    assert len(stub.Builder.built) == 3
    assert staging.reused == (entry.key,)


def test_a_ranking_is_run_on_onnx_runtime(here, frozen, tmp_path):
    both = frozenset({("full", 0, "static"), ("par-lite", 2, "dynamic")})
    with Staging(tmp_path / "bundle") as staging:
        entries = backend_file.build(frozen, staging, BuildOptions(only=both))
        open_bundle(staging.path)
    assert {(entry.version, entry.backend) for entry in entries} == {("par-lite", "onnxruntime"), ("full", "tensorrt")}


def test_tensorrts_own_words_are_quoted(here, frozen, tmp_path, monkeypatch):
    monkeypatch.setattr(stub.OnnxParser, "_complaints", lambda *_: ["node 7: Unsupported"])
    with Staging(tmp_path / "one") as staging, pytest.raises(BackendError, match=r"parser refuses.*node 7.*10\.16"):
        backend_file.build(frozen, staging, BuildOptions(only=LITE))


def test_a_build_that_fails_says_what_the_logger_was_told(here, frozen, tmp_path, monkeypatch):
    def fail(builder, network, config, writer):
        builder._logger.log(stub.Severity.ERROR, "Error Code 10: Could not find any implementation")
        return False

    monkeypatch.setattr(stub.Builder, "build_serialized_network_to_stream", fail)
    with Staging(tmp_path / "one") as staging, pytest.raises(BackendError, match="Could not find any implementation"):
        backend_file.build(frozen, staging, BuildOptions(only=LITE))


def test_a_plan_goes_to_its_file_piece_by_piece(here, frozen, tmp_path, monkeypatch):
    pieces, given = [], Staging.new_file

    @contextmanager
    def counted(staging, path):
        with given(staging, path) as write:
            yield lambda data: pieces.append((path, len(data))) or write(data)

    monkeypatch.setattr(Staging, "new_file", counted)
    with Staging(tmp_path / "bundle") as staging:
        (entry,) = backend_file.build(frozen, staging, BuildOptions(only=LITE))
        open_bundle(staging.path)  # which verifies sizes and digests
        size = staging.files[entry.graphs.decoder].bytes
    sizes = [length for path, length in pieces if path == entry.graphs.decoder]
    assert len(sizes) > 1
    assert sum(sizes) == size


class Unwritable:
    """A file on a full disk."""

    def __init__(self, file):
        self.close = file.close

    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_plan_that_cannot_be_written_is_not_there_and_the_reason_is(here, frozen, tmp_path, monkeypatch, capfd):
    with Staging(tmp_path / "bundle") as staging:
        opened = Path.open

        def fails(path, *words, **more):
            file = opened(path, *words, **more)
            return Unwritable(file) if path.suffix == ".plan" and words == ("xb",) else file

        monkeypatch.setattr(Path, "open", fails)
        with pytest.raises(BundleError, match="No space left") as caught:
            backend_file.build(frozen, staging, BuildOptions(only=LITE))
        assert caught.value.remedy
        assert not list(staging.path.rglob("*.plan"))
    assert "Exception caught" not in capfd.readouterr().out  # the bindings would have printed it, and lost it
