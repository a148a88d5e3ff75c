"""The bench command on the tiny bundle and on a named random shape."""

import json

import pytest

from allrounder.commands.cli import run_command
from allrounder.engines.bundle.reader import open_bundle


@pytest.fixture
def bench(capsys):
    """Runs the command and returns its exit code, stdout, the last line of it as JSON, and stderr."""

    def run(*arguments):
        code = run_command("bench", [str(argument) for argument in arguments])
        printed, told = capsys.readouterr()
        return code, printed, json.loads(printed.splitlines()[-1]) if code == 0 else None, told

    return run


def test_versions_stand_side_by_side_in_every_mode(bench, tiny_bundle):
    code, printed, report, _ = bench(tiny_bundle, "--weights", "fast,shared", "--repeats", "3", "--new-tokens", "4")
    assert code == 0
    rows = report["rows"]
    assert [(row["version"], row["weights"]) for row in rows] == [
        ("full", "fast"),
        ("par-lite", "fast"),
        ("full", "shared"),
        ("par-lite", "shared"),
    ]
    for row in rows:
        assert (row["router_ms"] > 0.02) == (row["version"] != "full")
        assert row["entry"] in printed
        parts = row["preprocess_ms"] + row["vision_ms"] + row["router_ms"] + row["prefill_ms"]
        assert parts > 0
        assert row["ttft_ms"]["p50"] <= row["ttft_ms"]["p95"] <= row["ttft_ms"]["p99"]
        assert 0 < row["memory"]["anonymous"] <= row["memory"]["peak_resident"]
    assert all(ratio == 1.0 for row in rows[::2] for ratio in row["speedup"].values())
    assert set(report["together"]) == {"fast", "shared"}
    assert report["workload"]["new_tokens"] == 4


def test_kv_bytes_are_those_of_the_decision(bench, tiny_bundle):
    _, _, report, _ = bench(tiny_bundle, "--repeats", "1", "--no-memory", "--text-tokens", "20", "--new-tokens", "5")
    full, lite = (row["kv_bytes"] for row in report["rows"])
    row_bytes = 2 * 2 * 8 * 4  # keys and values, kv heads, head_dim, float32
    assert full == 8 * (20 + 16 + 5) * row_bytes
    assert lite == (2 * (20 + 16 + 5) + 4 * (20 + 4 + 5)) * row_bytes  # two layers below K hold every image token


def test_bundle_bytes_are_those_of_its_files(bench, tiny_bundle):
    _, _, report, _ = bench(tiny_bundle, "--versions", "par-lite", "--repeats", "1", "--no-memory")
    assert report["bundle_bytes"] == sum(record.bytes for record in open_bundle(tiny_bundle).manifest.files.values())
    (row,) = report["rows"]
    assert row["speedup"] is None  # no full beside it
    assert row["memory"] is None


def test_a_named_random_shape_is_built_and_benched(bench):
    more = ("--versions", "full,par-nano", "--layer-policy", "both", "--repeats", "1", "--no-memory")
    code, printed, report, _ = bench("--shape", "llama-mha", *more)
    assert code == 0
    assert [row["version"] for row in report["rows"]] == ["full", "par-nano", "par-nano"]
    assert ["dynamic" in row["entry"] for row in report["rows"]] == [False, False, True]
    assert "prefill x" in printed


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], "either a bundle or --shape"),
        (["BUNDLE", "--shape", "0.5b"], "either a bundle or --shape"),
        (["--shape", "9000b"], "no such random shape"),
        (["BUNDLE", "--versions", "par-max"], "no par-max"),
        (["BUNDLE", "--weights", "slow"], "unknown mode"),
        (["BUNDLE", "--repeats", "0"], "too few rounds"),
        (["BUNDLE", "--new-tokens", "100000"], "new_tokens"),
        (["BUNDLE", "--text-tokens", "1"], "text_tokens"),
        (["/nowhere/at/all"], "no such directory"),
    ],
)
def test_bad_requests_are_refused(bench, tiny_bundle, more, words):
    code, printed, _, told = bench(*(tiny_bundle if part == "BUNDLE" else part for part in more))
    assert (code, printed) == (2, "")
    assert words in told
    assert "Traceback" not in told
