"""Loading: by target, by version, on a machine that measured nothing yet, damaged bundles; and the cost of import."""

import logging
import subprocess
import sys

import fake_bundle
import msgspec
import numpy as np
import pytest

from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.options import EngineOptions
from allrounder.engines.sessions import backend, check_precision
from allrounder.errors import (
    BundleCorrupt,
    BundleError,
    EngineUnavailable,
    InputInvalid,
    NoEngineMeetsTarget,
    UnknownVersion,
)
from allrounder.fingerprint import Machine
from allrounder.runtime import LatencyTarget, Runtime, local_latency
from allrounder.runtime.local_latency import with_local_latency

OPTIONS = EngineOptions(threads=1)
ELSEWHERE = Machine(cpu="elsewhere", cores=64, threads=64, backend="onnxruntime 9")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("load") / "bundle"
    fake_bundle.write_graphs(folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/allrounder/latency"


def entries(machine, full=(100.0, 10.0), pruned=(50.0, 5.0)):
    return [
        fake_bundle.entry("full", latency=machine and fake_bundle.latency(machine, *full)),
        fake_bundle.entry(
            "t2-l2", fidelity=fake_bundle.fidelity(0.1), latency=machine and fake_bundle.latency(machine, *pruned)
        ),
    ]


@pytest.fixture
def measured(source, tmp_path):
    here = backend("onnxruntime").fingerprint(OPTIONS)
    return fake_bundle.copy_bundle(source, tmp_path / "here", entries(here))


@pytest.fixture
def foreign(source, tmp_path):
    return fake_bundle.copy_bundle(source, tmp_path / "foreign", entries(ELSEWHERE))


@pytest.mark.parametrize(
    ("target", "version"), [(None, "full"), (LatencyTarget(ttft_ms=100), "full"), (LatencyTarget(tpot_ms=9), "t2-l2")]
)
def test_targets_pick_different_entries(measured, target, version):
    with Runtime.load(measured, target=target, threads=1) as runtime:
        assert runtime.entry.version == version


def test_an_impossible_target_is_refused_with_the_table(measured):
    target = LatencyTarget(ttft_ms=1)
    with pytest.raises(NoEngineMeetsTarget, match=r"t2-l2 .* ttft\s+50\.00 ms") as caught:
        Runtime.load(measured, target=target, threads=1)
    assert "ttft    100.00 ms" in str(caught.value)
    with Runtime.load(measured, target=target, threads=1, fallback="fastest") as runtime:
        assert runtime.entry.version == "t2-l2"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"version": "par-lite"}, UnknownVersion),
        ({"version": "full", "target": LatencyTarget(ttft_ms=1)}, InputInvalid),
        ({"target": 40}, InputInvalid),
        ({"fallback": "fastest"}, InputInvalid),
        ({"target": LatencyTarget(ttft_ms=1), "fallback": "slowest"}, InputInvalid),
        ({"threads": 0}, InputInvalid),
        ({"speed": "high"}, InputInvalid),
    ],
)
def test_impossible_arguments_are_refused(measured, arguments, error):
    with pytest.raises(error):
        Runtime.load(measured, **({"threads": 1} | arguments))


def test_foreign_figures_do_not_count_and_the_entries_are_measured_here_once(foreign, cache, caplog):
    caplog.set_level(logging.INFO, "allrounder.runtime")
    with Runtime.load(foreign, target=LatencyTarget(ttft_ms=10_000), threads=1) as runtime:
        assert runtime.entry.version == "full"
        assert runtime.entry.latency.machine == backend("onnxruntime").fingerprint(OPTIONS)
        assert runtime.entry.latency.ttft_ms.p50 < 99
    assert "were not measured on this machine" in caplog.text
    assert len(list(cache.iterdir())) == 1
    caplog.clear()
    with Runtime.load(foreign, target=LatencyTarget(ttft_ms=10_000), threads=1) as again:
        assert again.entry.latency == runtime.entry.latency
    assert "measured" not in caplog.text


def test_nothing_is_measured_where_no_target_is_given(foreign, cache, caplog):
    with Runtime.load(foreign, version="t2-l2", threads=1) as runtime:
        assert runtime.entry.latency.machine == ELSEWHERE
    assert not cache.exists()
    assert not caplog.records


def test_figures_are_kept_apart_by_bundle_threads_and_weights(foreign, measured, cache):
    def local(folder, **options):
        bundle = open_bundle(folder)
        return with_local_latency(bundle, bundle.manifest.entries, EngineOptions(**options))

    local(foreign, threads=1)
    local(foreign, threads=2)
    local(foreign, threads=1, weights="shared")
    local(measured, threads=2)
    assert len(list(cache.iterdir())) == 4
    assert local(measured, threads=1) == open_bundle(measured).manifest.entries
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("content", [b"", b"no json", b'{"latencies": {"x": 3}}', b'{"latencies": {}}', b"[" * 10_000])
def test_a_damaged_cache_is_ignored_and_replaced(foreign, cache, caplog, content):
    bundle = open_bundle(foreign)
    first = with_local_latency(bundle, bundle.manifest.entries, OPTIONS)
    (file,) = cache.iterdir()
    file.write_bytes(content)
    again = with_local_latency(bundle, bundle.manifest.entries, OPTIONS)
    assert [entry.latency.machine for entry in again] == [entry.latency.machine for entry in first]
    assert with_local_latency(bundle, bundle.manifest.entries, OPTIONS) == again
    if content != b'{"latencies": {}}':
        assert "cannot be read" in caplog.text


def test_without_a_writable_cache_it_says_so(foreign, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    bundle = open_bundle(foreign)
    assert all(entry.latency for entry in with_local_latency(bundle, bundle.manifest.entries, OPTIONS))
    assert "could not be kept" in caplog.text


def test_without_time_the_larger_entries_stay_unmeasured(foreign, caplog):
    bundle = open_bundle(foreign)
    full, pruned = with_local_latency(bundle, bundle.manifest.entries, OPTIONS, limit_seconds=0)
    assert full.latency is None
    assert pruned.latency is not None
    assert "no time was left to measure full" in caplog.text


def test_without_memory_they_are_measured_one_after_another(foreign, monkeypatch):
    opened = []
    together = local_latency.open_engines
    monkeypatch.setattr(local_latency, "fits", lambda bundle, entries, options: False)
    monkeypatch.setattr(local_latency, "open_engines", lambda b, e, o: opened.append(len(e)) or together(b, e, o))
    bundle = open_bundle(foreign)
    assert all(e.latency for e in with_local_latency(bundle, bundle.manifest.entries, OPTIONS, limit_seconds=5))
    assert opened == [1, 1, 1]


def test_with_time_and_memory_they_are_interleaved(foreign, monkeypatch):
    opened = []
    together = local_latency.open_engines
    monkeypatch.setattr(local_latency, "fits", lambda bundle, entries, options: True)
    monkeypatch.setattr(local_latency, "open_engines", lambda b, e, o: opened.append(len(e)) or together(b, e, o))
    bundle = open_bundle(foreign)
    entries = with_local_latency(bundle, bundle.manifest.entries, OPTIONS, limit_seconds=120)  # also on a busy machine
    assert all(entry.latency for entry in entries)
    assert opened == [1, 2]


def test_an_entry_left_unmeasured_on_purpose_stays_so(source, tmp_path):
    here = backend("onnxruntime").fingerprint(OPTIONS)
    full, pruned = entries(here)
    unmeasured = msgspec.structs.replace(full, latency=None)
    bundle = open_bundle(fake_bundle.copy_bundle(source, tmp_path / "some", [unmeasured, pruned]))
    assert with_local_latency(bundle, bundle.manifest.entries, OPTIONS) == (unmeasured, pruned)
    with Runtime.load(bundle.path, target=LatencyTarget(ttft_ms=100), threads=1) as runtime:
        assert runtime.entry.version == "t2-l2"


def test_a_bundle_without_any_figures_is_measured(source, tmp_path):
    bundle = open_bundle(fake_bundle.copy_bundle(source, tmp_path / "none", entries(None)))
    assert all(entry.latency for entry in with_local_latency(bundle, bundle.manifest.entries, OPTIONS))


def test_engines_of_another_backend_are_left_aside_or_named(source, tmp_path):
    other = fake_bundle.entry("full", backend="tensorrt")
    both = fake_bundle.copy_bundle(source, tmp_path / "both", [other, fake_bundle.entry("t2-l2")])
    with Runtime.load(both, threads=1) as runtime:
        assert runtime.entry.version == "t2-l2"
    with pytest.raises(EngineUnavailable, match="tensorrt"):
        Runtime.load(both, version="full", threads=1)


@pytest.mark.parametrize(
    ("backend", "device", "runs"),
    [
        ("onnxruntime", "cpu", False),
        ("onnxruntime", "cuda:1", True),
        ("openvino", "cpu", True),
        ("tensorrt", "cpu", True),  # its engines run on a GPU, whatever device is named
    ],
)
def test_bfloat16_is_refused_where_a_backend_lacks_it_on_the_cpu(backend, device, runs):
    entry = msgspec.structs.replace(fake_bundle.entry("full", backend=backend), precision="bf16")
    options = EngineOptions(device=device)
    if runs:
        check_precision(entry, options)
    else:
        with pytest.raises(EngineUnavailable, match=r"full \(onnxruntime, bf16.*device='cpu'.*device='cuda'"):
            check_precision(entry, options)


def test_damaged_bundles_are_refused(measured, tmp_path):
    with pytest.raises(BundleError):
        Runtime.load(tmp_path / "nowhere")
    graph = measured / "graphs/vision.onnx"
    content = bytearray(graph.read_bytes())
    content[100] ^= 1
    graph.write_bytes(content)
    with pytest.raises(BundleCorrupt, match=r"vision\.onnx"):
        Runtime.load(measured, threads=1)


def test_most_faithful_of_a_version_is_taken(source, tmp_path):
    half = msgspec.structs.replace(fake_bundle.entry("full"), precision="fp16")
    folder = fake_bundle.copy_bundle(source, tmp_path / "two", [half, fake_bundle.entry("full")])
    with Runtime.load(folder, version="full", threads=1) as runtime:
        assert runtime.entry.precision == "fp32"


def run(code: str, **environment) -> str:
    import os

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | environment
    )
    return done.stdout.strip()


def test_importing_loads_few_modules_and_no_framework():
    """What makes an import slow is counted, not timed: a busy machine is no fault of ours."""
    code = (
        "import sys; before = set(sys.modules); from allrounder.runtime import Runtime, LatencyTarget; "
        "print(len(set(sys.modules) - before), "
        "*sorted({'torch', 'transformers', 'onnx', 'onnxruntime', 'PIL', 'openvino'} & set(sys.modules)))"
    )
    count, *frameworks = run(code).split()
    assert frameworks == []
    assert int(count) < 300


def test_answering_loads_no_framework_and_sends_nothing(measured, tmp_path):
    np.save(tmp_path / "rgb.npy", np.zeros((4, 4, 3), np.uint8))
    code = (
        "import sys, os, numpy; from allrounder.runtime import Runtime\n"
        f"rt = Runtime.load({str(measured)!r}, version='full', threads=1)\n"
        f"rt.generate(numpy.load({str(tmp_path / 'rgb.npy')!r}), 'what?', max_new_tokens=2); rt.close()\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'], 'torch' in sys.modules, 'onnxruntime' in sys.modules)"
    )
    assert run(code, HOME=str(tmp_path / "home")) == "1 False True"
    assert not (tmp_path / "home").exists()
    assert not list((tmp_path / "cache").glob("**/*onnxruntime*"))


def test_every_public_name_is_there():
    import allrounder.runtime

    assert all(getattr(allrounder.runtime, name) for name in allrounder.runtime.__all__)
    with pytest.raises(AttributeError):
        _ = allrounder.runtime.nothing
