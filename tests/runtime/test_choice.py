"""The pure choice: total order, targets, fallback, monotony."""

import itertools

import fake_bundle
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prunings import pruning

from allrounder.errors import InputInvalid, NoEngineMeetsTarget
from allrounder.fingerprint import Machine
from allrounder.runtime.choice import LatencyTarget, by_faithfulness, choose

HERE = Machine(cpu="here", cores=2, threads=2, backend="onnxruntime 1")
THERE = Machine(cpu="there", cores=2, threads=2, backend="onnxruntime 1")


def make(version="par-lite", *, kl=None, tokens=144, layers=24, precision="fp32", figures=None, machine=HERE):
    return msgspec.structs.replace(
        fake_bundle.entry("t2-l2"),
        pruning=pruning((tokens, layers), 1, None, version),
        precision=precision,
        fidelity=None if kl is None else fake_bundle.fidelity(kl),
        latency=figures and fake_bundle.latency(machine, *figures),
    )


def order(*entries):
    return [entries[index] for index in by_faithfulness(entries)]


def test_full_comes_first_even_where_noise_gives_another_a_lower_kl():
    full, lite = make("full", kl=0.02, tokens=576, layers=32), make(kl=0.01)
    assert order(lite, full) == [full, lite]


def test_then_the_lowest_kl_then_the_larger_budget_then_the_higher_precision_then_the_order_given():
    best, worse = make(kl=0.1, tokens=10), make(kl=0.2)
    assert order(worse, best) == [best, worse]
    small, large = make(kl=0.1, tokens=10), make(kl=0.1)
    assert order(small, large) == [large, small]
    half, single = make(kl=0.1, precision="fp16"), make(kl=0.1)
    assert order(half, single) == [single, half]
    short = make(kl=0.1, precision="bf16")  # as many bits, but three fewer of the significand
    assert order(short, half, single) == [single, half, short]
    first, second = make("a", kl=0.1), make("b", kl=0.1)
    assert order(first, second) == [first, second]


def test_full_of_the_lower_precision_ranks_by_its_own_kl():
    full, half = make("full", kl=0.0, tokens=576), make("full", kl=0.3, tokens=576, precision="fp16")
    maximum = make("par-max", kl=0.1)
    assert order(half, maximum, full) == [full, maximum, half]


def test_without_fidelity_comes_last_by_budget():
    known, small, large = make(kl=9.0), make("a", tokens=10), make("b", tokens=20)
    assert order(small, large, known) == [known, large, small]
    full = make("full", tokens=576)
    assert order(large, known, full) == [full, known, large]  # nobody need measure what `full` is


def test_without_a_target_the_most_faithful_is_chosen_measured_or_not():
    full, lite = make("full", tokens=576), make(kl=0.1, figures=(1, 1))
    assert choose([lite, full]) is full


def test_a_target_takes_the_most_faithful_that_meets_all_of_it():
    entries = [
        make("full", figures=(100, 10)),
        make(kl=0.1, figures=(50, 7)),
        make("par-nano", kl=0.2, figures=(40, 6)),
    ]
    chosen = [choose(entries, LatencyTarget(ttft_ms=ms), HERE).version for ms in (100, 99, 45)]
    assert chosen == ["full", "par-lite", "par-nano"]
    assert choose(entries, LatencyTarget(ttft_ms=100, tpot_ms=6.5), HERE).version == "par-nano"


def test_the_percentile_is_the_targets():
    slow_tail = make(figures=(10, 1))
    ttft = msgspec.structs.replace(slow_tail.latency.ttft_ms, p95=20.0, p99=30.0)
    slow_tail = msgspec.structs.replace(slow_tail, latency=msgspec.structs.replace(slow_tail.latency, ttft_ms=ttft))
    assert choose([slow_tail], LatencyTarget(ttft_ms=10, percentile=50), HERE)
    assert choose([slow_tail], LatencyTarget(ttft_ms=20), HERE)
    with pytest.raises(NoEngineMeetsTarget):
        choose([slow_tail], LatencyTarget(ttft_ms=20, percentile=99), HERE)


def test_none_meets_it_and_the_message_is_the_table():
    entries = [make("full", figures=(100, 10)), make(kl=0.1, figures=(50, 7), machine=THERE), make("par-nano", kl=0.2)]
    with pytest.raises(NoEngineMeetsTarget) as caught:
        choose(entries, LatencyTarget(ttft_ms=9), HERE)
    text = str(caught.value)
    assert "ttft    100.00 ms" in text
    assert text.count("not measured on this machine") == 2
    assert all(entry.label in text for entry in entries)
    assert "ttft <= 9 ms at p95" in text


def test_fallback_is_explicit_and_takes_the_nearest_measured():
    entries = [make("full", figures=(100, 10)), make(kl=0.1, figures=(50, 7)), make("par-nano", kl=0.2)]
    assert choose(entries, LatencyTarget(ttft_ms=9), HERE, fallback="fastest") is entries[1]
    with pytest.raises(NoEngineMeetsTarget):
        choose(entries[2:], LatencyTarget(ttft_ms=9), HERE, fallback="fastest")
    with pytest.raises(InputInvalid, match="unknown fallback"):
        choose(entries, LatencyTarget(ttft_ms=9), HERE, fallback="slowest")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"ttft_ms": 0},
        {"ttft_ms": -1},
        {"tpot_ms": float("nan")},
        {"tpot_ms": float("inf")},
        {"ttft_ms": "40"},
        {"ttft_ms": True},
        {"ttft_ms": 40, "percentile": 90},
    ],
)
def test_impossible_targets_are_refused(arguments):
    with pytest.raises(InputInvalid):
        LatencyTarget(**arguments)


milliseconds = st.floats(0.5, 500)
ENTRIES = st.lists(
    st.builds(
        make,
        st.sampled_from(["full", "par-max", "par-lite"]),
        kl=st.none() | st.floats(0, 1),
        tokens=st.integers(1, 576),
        precision=st.sampled_from(["fp32", "fp16", "bf16"]),
        figures=st.none() | st.tuples(milliseconds, milliseconds),
        machine=st.sampled_from([HERE, HERE, THERE]),
    ),
    min_size=1,
    max_size=7,
)


@given(ENTRIES, milliseconds, milliseconds, milliseconds, milliseconds)
def test_a_looser_target_never_gives_a_less_faithful_entry(entries, ttft, tpot, more_ttft, more_tpot):
    tight, loose = LatencyTarget(ttft, tpot), LatencyTarget(ttft + more_ttft, tpot + more_tpot)
    rank = {id(entries[index]): position for position, index in enumerate(by_faithfulness(entries))}
    try:
        chosen = choose(entries, tight, HERE)
    except NoEngineMeetsTarget:
        return
    assert chosen.latency.ttft_ms.p95 <= ttft
    assert rank[id(choose(entries, loose, HERE))] <= rank[id(chosen)]


@given(ENTRIES)
def test_faithfulness_is_one_total_order_that_puts_full_first_at_its_precision(entries):
    ranked = order(*entries)
    assert sorted(map(id, ranked)) == sorted(map(id, entries))
    for earlier, later in itertools.combinations(ranked, 2):
        assert not (later.version == "full" and earlier.precision == later.precision and earlier.version != "full")
        if earlier.version != "full" and later.version != "full" and later.fidelity is not None:
            assert earlier.fidelity is not None
            assert earlier.fidelity.kl.mean <= later.fidelity.kl.mean


@given(ENTRIES, milliseconds)
def test_an_entry_that_meets_the_target_is_never_missed(entries, ttft):
    able = [e for e in entries if e.latency and e.latency.machine == HERE and e.latency.ttft_ms.p95 <= ttft]
    try:
        chosen = choose(entries, LatencyTarget(ttft), HERE)
    except NoEngineMeetsTarget:
        assert not able
    else:
        assert any(chosen is entry for entry in able)
