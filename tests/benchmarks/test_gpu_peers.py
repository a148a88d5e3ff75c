"""`benchmarks/gpu_peers` on a CPU: the very program that a GPU runs, on a tiny model."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).parents[2] / "benchmarks" / "gpu_peers"
COMMON = ["--shape", "tiny", "--device", "cpu", "--threads", "1", "--text-tokens", "16", "--new-tokens", "4"]
COMMON += ["--rounds", "2", "--images", "2"]


def call(work, *more):
    """Returns the exit code, the report (or None) and what was said."""
    words = [sys.executable, str(PROGRAM), *COMMON, "--work", str(work), *more]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout.splitlines()[-1]) if done.stdout else None, done.stderr


@pytest.fixture
def module(monkeypatch):
    """Imports a module of the program."""
    monkeypatch.syspath_prepend(str(PROGRAM))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if not name.startswith(("torch", "transformers")):
            del sys.modules[name]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++, which is not installed")
def test_everybody_is_raced_and_a_second_call_repeats_nothing(tmp_path):
    words = ("--versions", "full,par-lite", "--at-once", "1")
    code, report, said = call(tmp_path, *words)
    assert code == 0, said
    rows = report["rows"]
    ours = [name for name in rows if name.startswith(("full", "par-lite"))]
    assert len(ours) == 3  # full, par-lite dynamic, par-lite static
    assert set(rows) - set(ours) == {"transformers, eager", "transformers, torch.compile"}
    assert [rows[name]["race"] for name in ours] == [0, 0, 1]
    for name, row in rows.items():
        assert row["figures"]["ttft_ms"]["median"] > row["figures"]["bare_ttft_ms"]["median"] > 0
        assert row["figures"]["tpot_ms"]["median"] > 0
        assert len(row["over"]) == (2 if name in ("transformers, eager", "transformers, torch.compile", ours[0]) else 3)
        for over in row["over"].values():
            assert all(0 < each["low"] <= each["median"] <= each["high"] for each in over.values())
    (parity,) = report["parity"]
    assert parity["met"] is True
    assert parity["equal_tokens"] == parity["tokens"] == 8
    assert set(map(tuple, report["equal_tokens"].values())) == {(4, 4)}  # a peer that is compiled wrongly is no peer
    assert "random weights" in (tmp_path / "report.md").read_text()
    again, same, said = call(tmp_path, *words)
    assert (again, same) == (0, report)
    assert not any(word in said for word in ("first request", "writing random weights", "freezing", "stock in fp32"))


def test_parity_in_fp16_is_bound_by_stocks_own_distance_from_fp32(tmp_path):
    code, report, said = call(tmp_path, "--precision", "fp16", "--versions", "full", "--peers", "eager")
    assert code == 0, said
    (parity,) = report["parity"]
    assert parity["met"] is True
    assert parity["bound"] == pytest.approx(3 * parity["stock_from_fp32"])
    assert 1e-5 < parity["stock_from_fp32"] < 0.1
    code, report, said = call(tmp_path, "--precision", "fp32", "--versions", "full", "--peers", "eager")
    assert (code, report) == (2, None)
    assert "the work folder was made for others" in said
    assert "another --work" in said


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--peers", "eager,vllm"), "--peers"),
        (("--versions", "par-huge"), "par-huge"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path, words, wanted):
    code, _, said = call(tmp_path, *words)
    assert code == 2
    assert wanted in said


def test_a_machine_without_a_gpu_is_refused_before_the_work(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    code, _, said = call(tmp_path / "work", "--device", "cuda", "--shape", "7b")
    assert code == 2
    assert "remedy" in said
    assert not (tmp_path / "work").exists()


def answers(parity, logits):
    return parity.Answers(np.asarray(logits, np.float32), np.argmax(logits, -1)[:, None])


def test_parity_is_missed_by_answers_that_are_further_off(module):
    parity = module("parity")
    draw = np.random.default_rng(0)
    exact = draw.standard_normal((2, 50))
    noise = draw.standard_normal((2, 50)) * 1e-3
    true, peer = answers(parity, exact), answers(parity, exact + noise)
    assert parity.judge("x", answers(parity, exact - 2 * noise), peer, true).met is True
    assert parity.judge("x", answers(parity, exact - 4 * noise), peer, true).met is False
    assert parity.judge("x", answers(parity, np.where(exact == exact[0, 0], np.nan, exact)), peer, true).met is False
    unjudged = parity.judge("x", answers(parity, exact[::-1]), peer, None)
    assert (unjudged.met, unjudged.bound) == (None, None)
    assert unjudged.equal_tokens < unjudged.tokens


def test_turns_go_round_and_ratios_are_taken_round_by_round(module):
    race, turns = module("race"), []

    class Runner:
        answer = ()

        def __init__(self, name, factor):
            self.name, self.factor = name, factor

        def ask(self):
            turns.append(self.name)
            slow = 1 + len(turns) // 3  # the machine gets slower; ratios do not
            return race.Times(*(self.factor * slow * value for value in (3.0, 2.0, 1.0)))

    runners = [Runner("a", 1.0), Runner("b", 2.0), Runner("c", 4.0)]
    times = race.rounds(runners, 5, lambda *_: None)
    assert ["".join(turns[i : i + 3]) for i in (0, 3, 6, 9)] == ["abc", "bca", "cab", "abc"]
    assert {rows.shape for rows in times.values()} == {(5, 3)}
    over = race.ratios(times, "a", "c")
    assert all(each.low <= each.median <= each.high for each in over.values())
    assert over["ttft_ms"].median == pytest.approx(4.0, rel=0.35)
