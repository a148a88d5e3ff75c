"""Which entries of a bundle are compared, and what is said of the others."""

from pathlib import Path

import numpy as np
import pytest
from prunings import pruning

from allrounder.calib.fidelity import Outcomes
from allrounder.calib.figures import advise
from allrounder.fingerprint import Machine
from allrounder.manifest import Entry, EntryGraphs, Latency, Percentiles, Workload

PLACE, LAYERS = Path("some/bundle"), 8
POLICIES = ("dynamic", "static")
WORKLOAD = Workload(text_tokens=1, new_tokens=1, batch=1, threads=1, image_size=14)
MACHINE = Machine(cpu="", cores=1, threads=1, backend="", gpu="", driver="")


def entry(version, policy="static", ttft=None, *, layers=6, prune_layer=2, precision="fp32"):
    times = None if ttft is None else Percentiles(p50=ttft, p95=99.0, p99=99.0)
    return Entry(
        pruning=pruning(
            (4, layers),
            0 if version == "full" else prune_layer,
            tuple(range(layers)) if policy == "static" else None,
            version,
        ),
        backend="onnxruntime",
        precision=precision,
        graphs=EntryGraphs(vision="v", router="r", decoder="d"),
        fidelity=None,
        latency=times and Latency(ttft_ms=times, tpot_ms=times, machine=MACHINE, workload=WORKLOAD),
    )


def outcomes(agreeing, questions=10):
    agrees = np.arange(questions) < agreeing
    ones = np.ones(questions, bool)
    layers = np.ones((questions, LAYERS), bool)
    return Outcomes(1.0 - agrees, agrees, ones, agrees, ones, ("",) * questions, layers, ones, ones, ones)


FULL = entry("full", ttft=10.0, layers=LAYERS)


def advice_on(entries, agreeing):
    return advise(entries, {each.key: outcomes(right) for each, right in zip(entries, agreeing, strict=True)}, PLACE)


@pytest.mark.parametrize(("dynamic", "static", "wanted"), [(9, 7, "dynamic"), (9, 9, "static"), (6, 8, "static")])
def test_both_policies_are_compared(dynamic, static, wanted):
    entries = [FULL, entry("par-lite", "dynamic", 5.0), entry("par-lite", "static", 4.0)]
    advice = advice_on(entries, [10, dynamic, static])
    (found,) = advice.recommendations
    assert (found.version, found.layer_policy) == ("par-lite", wanted)
    assert f"static agrees with full on {10 * static}.0% of the questions, dynamic on {10 * dynamic}.0%" in found.why
    assert "in 40.0% and 50.0% of full's time" in found.why
    assert advice.not_compared == ()


def test_what_was_not_timed_is_compared_without_times():
    entries = [FULL, entry("par-lite", "dynamic"), entry("par-lite", "static", 4.0)]
    (found,) = advice_on(entries, [10, 9, 9]).recommendations
    assert "time" not in found.why


def test_one_policy_alone_is_not_compared():
    entries = [FULL, entry("par-lite", "static", prune_layer=0), entry("par-nano", "dynamic")]
    advice = advice_on(entries, [10, 9, 9])
    assert advice.recommendations == ()
    lite, nano = advice.not_compared
    assert "--version par-lite --layer-policy dynamic" in lite
    assert "--prune-layer 0" in lite
    assert "--version par-nano --layer-policy static" in nano
    assert str(PLACE) in nano


def test_policies_are_compared_at_one_prune_layer_and_precision():
    entries = [FULL, entry("par-lite", "dynamic"), entry("par-lite", "static", prune_layer=3)]
    advice = advice_on(entries, [10, 9, 9])
    assert advice.recommendations == ()
    assert len(advice.not_compared) == 2


def test_a_version_in_two_precisions_has_two_recommendations_that_name_them():
    entries = [FULL, *(entry("par-lite", policy, precision=each) for each in ("fp32", "fp16") for policy in POLICIES)]
    found = advice_on(entries, [10, 9, 7, 9, 9]).recommendations
    assert [each.layer_policy for each in found] == ["dynamic", "static"]
    assert found[0].why.startswith("onnxruntime, fp32, K=2: ")
    assert found[1].why.startswith("onnxruntime, fp16, K=2: ")


def test_a_version_with_every_layer_has_no_policy_to_choose():
    advice = advice_on([FULL, entry("t4-l8", layers=LAYERS)], [10, 9])
    assert advice == ((), ())
