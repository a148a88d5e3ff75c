"""C++ and Python take the same entry for the same target, and share what they remember of a machine and its bundles.

By real loads: the bundle is verified, the machine's fingerprint compared, entries measured where they have to be.
"""

import itertools
import json
import logging

import msgspec
import numpy as np
import pytest
from native_bundles import latency, variant

from allrounder import errors
from allrounder.fingerprint import Machine
from allrounder.native.client import NativeRuntime
from allrounder.runtime import LatencyTarget, Runtime
from allrounder.runtime.backend import backend
from allrounder.runtime.options import EngineOptions

pytestmark = pytest.mark.usefixtures("native_library")

ONE = EngineOptions(threads=1)
ELSEWHERE = Machine(cpu="elsewhere", cores=64, threads=64, backend="onnxruntime 9")
FIGURES = {"full": (100.0, 4.0), "par-lite": (40.0, 2.0), "par-nano": (50.0, 1.0)}  # neither is better in both
RGB = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
LOCAL = "latency/*.json"
STAMPS = "stamps/*.json"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/allrounder"


def on(machine, source, folder):
    """Returns the bundle as if it had been measured on ``machine``."""
    return variant(
        source,
        folder,
        lambda entry: msgspec.structs.replace(entry, latency=latency(machine, *FIGURES[entry.version])),
    )


@pytest.fixture
def measured(demo_bundle, tmp_path):
    """The demo bundle with figures of this machine."""
    return on(backend("onnxruntime").fingerprint(ONE), demo_bundle, tmp_path / "here")


@pytest.fixture
def foreign(tiny_bundle, tmp_path):
    """A bundle of a tiny host, which is measured in no time, with figures of another machine."""
    return on(ELSEWHERE, tiny_bundle, tmp_path / "foreign")


def native_choice(bundle, *, ttft_ms=None, tpot_ms=None, **options):
    target = {name: value for name, value in (("ttft_ms", ttft_ms), ("tpot_ms", tpot_ms)) if value is not None}
    try:
        with NativeRuntime(bundle, threads=1, **target, **options) as runtime:
            return runtime.version
    except errors.NoEngineMeetsTarget as error:
        return error


def python_choice(bundle, *, ttft_ms=None, tpot_ms=None, percentile=95, **options):
    target = LatencyTarget(ttft_ms, tpot_ms, percentile)
    try:
        with Runtime.load(bundle, target=target, threads=1, **options) as runtime:
            return runtime.entry.version
    except errors.NoEngineMeetsTarget as error:
        return error


TTFT, TPOT = (None, 30.0, 55.0, 1000.0), (None, 0.5, 1.3, 1e9)


@pytest.mark.parametrize("percentile", [50, 95, 99])
def test_a_grid_of_targets(measured, percentile):
    chosen = set()
    for ttft_ms, tpot_ms in itertools.product(TTFT, TPOT):
        if ttft_ms is None and tpot_ms is None:
            continue
        for more in ({}, {"fallback": "fastest"}):
            target = {"ttft_ms": ttft_ms, "tpot_ms": tpot_ms, "percentile": percentile, **more}
            found, wanted = native_choice(measured, **target), python_choice(measured, **target)
            if isinstance(wanted, Exception):
                assert type(found) is type(wanted), target
                assert "".join(str(found).split()).startswith("".join(str(wanted).split("; wanted")[0].split()))
            else:
                assert found == wanted, target
            chosen.add(str(wanted) if isinstance(wanted, str) else "none")
    assert chosen == {*FIGURES, "none"}, "a grid that does not tell the entries apart would prove little"


@pytest.mark.parametrize("version", [None, *FIGURES])
def test_without_a_target(measured, version):
    named = {} if version is None else {"version": version}
    with NativeRuntime(measured, threads=1, **named) as native, Runtime.load(measured, threads=1, **named) as python:
        assert native.version == python.entry.version


def test_nothing_is_measured_where_the_figures_are_of_this_machine(measured, cache):
    told = []
    with NativeRuntime(measured, threads=1, ttft_ms=1000.0, log=told.append) as runtime:
        assert runtime.version == "full"
    assert not [*cache.glob(LOCAL)]
    assert not [line for line in told if "measuring" in line]


def test_python_reads_what_cpp_measured(foreign, cache, caplog):
    told = []
    with NativeRuntime(foreign, threads=1, ttft_ms=1e6, log=told.append) as runtime:
        assert runtime.version == "full"
    assert [line for line in told if "measuring 2 entries" in line]
    (file,) = cache.glob(LOCAL)
    written = file.read_bytes()
    figures = json.loads(written)["latencies"]
    machine = msgspec.to_builtins(backend("onnxruntime").fingerprint(ONE))
    assert {label.split(" ")[0] for label in figures} == {"full", "par-lite"}
    for each in figures.values():
        assert each["machine"] == machine
        assert 0 < each["ttft_ms"]["p50"] <= each["ttft_ms"]["p95"] <= each["ttft_ms"]["p99"]
    with caplog.at_level(logging.WARNING):
        _compare_choices(foreign, figures)
    assert not caplog.records
    assert [*cache.glob(LOCAL)] == [file]
    assert file.read_bytes() == written


def test_cpp_reads_what_python_measured(foreign, cache, caplog):
    with caplog.at_level(logging.WARNING):
        assert python_choice(foreign, ttft_ms=1e6) == "full"
    assert "measuring 2 entries" in caplog.text
    (file,) = cache.glob(LOCAL)
    written = file.read_bytes()
    told = []
    native_choice(foreign, ttft_ms=1e6, log=told.append)
    assert not [line for line in told if "measuring" in line]
    _compare_choices(foreign, json.loads(written)["latencies"])
    assert [*cache.glob(LOCAL)] == [file]
    assert file.read_bytes() == written


def _compare_choices(bundle, figures):
    """Loads at targets around every figure, with both runtimes."""
    for each in figures.values():
        for factor in (0.999, 1.001):
            target = {"ttft_ms": each["ttft_ms"]["p95"] * factor, "fallback": "fastest"}
            assert native_choice(bundle, **target) == python_choice(bundle, **target)


def test_figures_are_kept_apart_by_threads_and_weights_in_both_languages(foreign, cache):
    names = {}
    for threads, weights in ((1, "fast"), (2, "fast"), (1, "shared")):
        with NativeRuntime(foreign, threads=threads, weights=weights, ttft_ms=1e6):
            pass
        (new,) = {file.name for file in cache.glob(LOCAL)} - set(names.values())
        names[threads, weights] = new
    for threads, weights in names:
        Runtime.load(foreign, threads=threads, weights=weights, target=LatencyTarget(ttft_ms=1e6)).close()
    assert {file.name for file in cache.glob(LOCAL)} == set(names.values())


@pytest.mark.parametrize("content", [b"", b"no json", b'{"latencies": {"x": 3}}', b'{"latencies": {}}', b"[" * 10_000])
def test_a_damaged_latency_cache_is_measured_anew(foreign, cache, content):
    native_choice(foreign, ttft_ms=1e6)
    (file,) = cache.glob(LOCAL)
    file.write_bytes(content)
    told = []
    assert native_choice(foreign, ttft_ms=1e6, log=told.append) == "full"
    assert [line for line in told if "measuring 2 entries" in line]
    assert python_choice(foreign, ttft_ms=1e6) == "full"
    assert set(json.loads(file.read_bytes())["latencies"]) != {"x"}


def load_native(bundle):
    told = []
    with NativeRuntime(bundle, version="par-nano", threads=1, progress=lambda *step: told.append(step)):
        pass
    return told


def load_python(bundle):
    told = []
    Runtime.load(bundle, version="par-nano", threads=1, progress=lambda *step: told.append(step)).close()
    return told


@pytest.mark.parametrize(("first", "second"), [(load_native, load_python), (load_python, load_native)])
def test_what_one_language_hashed_the_other_does_not(demo_bundle, cache, first, second):
    tasks = {task for task, *_ in first(demo_bundle)}
    assert tasks == {"verifying (MiB)"}
    (stamp,) = cache.glob(STAMPS)
    written = stamp.read_bytes()
    assert second(demo_bundle) == []
    assert first(demo_bundle) == []
    assert [*cache.glob(STAMPS)] == [stamp]
    assert stamp.read_bytes() == written


def test_both_languages_write_the_same_stamp(demo_bundle, cache):
    load_native(demo_bundle)
    (stamp,) = cache.glob(STAMPS)
    found = json.loads(stamp.read_bytes())
    stamp.unlink()
    load_python(demo_bundle)
    assert json.loads(stamp.read_bytes()) == found


@pytest.mark.parametrize("first", [load_native, load_python])
def test_a_stamp_does_not_hide_a_change_from_the_other_language(demo_bundle, tmp_path, first):
    place = variant(demo_bundle, tmp_path / "changed", lambda entry: entry)
    graph = next(place.glob("graphs/decode-*.onnx"))
    whole = graph.read_bytes()
    graph.unlink()  # it is a link
    graph.write_bytes(whole)
    first(place)
    graph.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for load in (load_native, load_python):
        with pytest.raises(errors.BundleCorrupt, match=graph.name):
            load(place)


def test_an_answer_after_a_choice(foreign):
    """The entry that was chosen by target is the one that answers."""
    with (
        NativeRuntime(foreign, threads=1, ttft_ms=0.001, fallback="fastest") as native,
        Runtime.load(foreign, threads=1, target=LatencyTarget(ttft_ms=0.001), fallback="fastest") as python,
    ):
        found, wanted = (each.generate(RGB, "what is it?", max_new_tokens=4) for each in (native, python))
        assert native.version == python.entry.version
        assert found.token_ids == wanted.token_ids
