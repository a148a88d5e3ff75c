"""C++ and Python take the same entry for the same target, by the latencies that a manifest records for this machine.

By real loads: the bundle is opened, the machine's fingerprint compared. Where nothing is recorded for this machine,
Python measures, and C++ refuses.
"""

import itertools

import msgspec
import numpy as np
import pytest
from native_bundles import latency, variant

from allrounder import errors
from allrounder.engines.options import EngineOptions
from allrounder.engines.sessions import backend
from allrounder.fingerprint import Machine
from allrounder.native.client import NativeRuntime
from allrounder.runtime import LatencyTarget, Runtime

pytestmark = pytest.mark.usefixtures("native_library")

ONE = EngineOptions(threads=1)
ELSEWHERE = Machine(cpu="elsewhere", cores=64, threads=64, backend="onnxruntime 9")
FIGURES = {"full": (100.0, 4.0), "par-lite": (40.0, 2.0), "par-nano": (50.0, 1.0)}  # neither is better in both
RGB = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)


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
    """A bundle with figures of another machine."""
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


@pytest.mark.parametrize("fallback", [{}, {"fallback": "fastest"}])
def test_figures_of_another_machine_do_not_count(foreign, fallback):
    """Not even for a fallback; the message says how to record one's own."""
    refused = native_choice(foreign, ttft_ms=1e6, **fallback)
    assert isinstance(refused, errors.NoEngineMeetsTarget)
    assert str(refused).count("not measured on this machine") == 2
    assert "allrounder calibrate" in str(refused)


def test_figures_of_other_threads_do_not_count(measured):
    with pytest.raises(errors.NoEngineMeetsTarget, match="not measured"):
        NativeRuntime(measured, threads=2, ttft_ms=1e6)


def test_shared_weights_have_no_recorded_figures(measured):
    with pytest.raises(errors.InputInvalid, match="fast weights"):
        NativeRuntime(measured, threads=1, weights="shared", ttft_ms=1e6)


def test_an_answer_after_a_choice(measured):
    """The entry that was chosen by target is the one that answers."""
    with (
        NativeRuntime(measured, threads=1, ttft_ms=0.001, fallback="fastest") as native,
        Runtime.load(measured, threads=1, target=LatencyTarget(ttft_ms=0.001), fallback="fastest") as python,
    ):
        found, wanted = (each.generate(RGB, "what is it?", max_new_tokens=4) for each in (native, python))
        assert native.version == python.entry.version
        assert found.token_ids == wanted.token_ids
