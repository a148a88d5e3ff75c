"""The report command on the tiny model: whole, killed and resumed, and when a worker fails.

The bundle is built once per session; outcomes are removed where a test measures anew.
"""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from allrounder.commands.cli import run_command
from allrounder.fidelity_report import ROUTER, read_report

IMAGES, ASKED = 8, 5
GRID = 17  # questions wanted; three whole images are 15
CHUNKS = 5  # of ten questions, cut at the grid's end


def write_questions(folder):
    """Writes a prompts file of labelled questions of five kinds about images of noise."""
    folder.mkdir()
    lines = []
    for image in range(IMAGES):
        pixels = np.random.default_rng(100 + image).integers(0, 256, (40, 52, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{image}.png")
        for number in range(ASKED):
            question = f"what is {number} of {image}?"
            lines.append({"image": f"{image}.png", "question": question, "kind": f"kind {number}", "answer": "x"})
    path = folder / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


class Place:
    """A work folder with its questions and the arguments of the command."""

    def __init__(self, tiny, folder):
        self.work, self.questions = folder / "work", write_questions(folder / "questions")
        self._tiny = tiny

    def arguments(self, out, *more, jobs=2):
        given = {
            "--model": self._tiny.vlm,
            "--router": self._tiny.router,
            "--rank": self._tiny.prompts,
            "--calib": self.questions,
            "--grid-questions": GRID,
            "--jobs": jobs,
            "--work": self.work,
            "--out": out,
        }
        return [*(str(part) for pair in given.items() for part in pair), *more]

    def chunks(self):
        return sorted(self.work.glob("*/*/0*.npz"))

    def forget(self):
        for chunk in self.chunks():
            chunk.unlink()


@pytest.fixture(scope="module")
def place(tiny, tmp_path_factory):
    return Place(tiny, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def first(place, tmp_path_factory):
    """The report of an unbroken run, by one worker."""
    out = tmp_path_factory.mktemp("reports") / "first" / "report.json"
    assert run_command("report", place.arguments(out, "--no-timing", jobs=1)) == 0
    return out


@pytest.mark.slow
def test_the_last_line_tells_where_the_report_is(place, first, tmp_path, capsys):
    out = tmp_path / "report.json"
    assert run_command("report", place.arguments(out, "--no-timing", jobs=1)) == 0
    assert out.read_bytes() == first.read_bytes()
    printed, told = capsys.readouterr()
    report = json.loads(printed.splitlines()[-1])
    assert report["report"] == str(out)
    assert report["page"] is None
    assert report["questions"] == IMAGES * ASKED
    assert "40 of 40 questions" in told


@pytest.mark.slow
def test_a_killed_run_ends_with_the_report_of_an_unbroken_one(place, first, tmp_path):
    place.forget()
    out = tmp_path / "report.json"
    command = [sys.executable, "-m", "allrounder.commands", "report", *place.arguments(out, "--no-timing")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 250
    while not place.chunks() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    _, told = process.communicate()
    assert 1 <= len(place.chunks()) < CHUNKS, told
    assert not out.exists()
    before = {path: path.stat().st_mtime_ns for path in place.chunks()}
    assert run_command("report", place.arguments(out, "--no-timing")) == 0
    after = {path: path.stat().st_mtime_ns for path in place.chunks()}
    assert len(after) == CHUNKS
    assert [path for path in before if after[path] == before[path]], "finished chunks were computed again"
    assert out.read_bytes() == first.read_bytes()


@pytest.mark.slow
def test_the_report_has_every_row(place, first, tiny):
    from allrounder.vlm.checkpoint import Checkpoint

    report = read_report(first)
    assert report.model_digest == Checkpoint(tiny.vlm).digest
    assert (report.image_tokens, report.layers, report.prune_layer) == (16, 8, 2)
    assert report.dataset.questions == 40
    assert report.full.agreement.mean == 1.0
    assert set(report.full_kinds) == {f"kind {number}" for number in range(ASKED)}
    names = [(row.pruner, row.version, row.pruning.layer_policy) for row in report.rows]
    assert len(set(names)) == len(names)
    for policy in ("dynamic", "static"):
        for version in ("par-max", "par-base", "par-lite", "par-nano"):
            row = report.row(version, policy)
            assert row is not None
            assert row.figures.questions == 40
            assert (row.pruning.kept_layers is None) == (policy == "dynamic")
            assert sum(row.layer_use) == pytest.approx(row.pruning.layers)
            if policy == "static":
                assert [share == 1.0 for share in row.layer_use] == [n in row.pruning.kept_layers for n in range(8)]
    assert report.row("t2-l8", "static").figures.questions == 40
    assert report.row("t1-l6", "dynamic") is not None
    grid = [row for row in report.rows if row.pruner != ROUTER]
    assert {row.figures.questions for row in grid} == {15}
    assert {row.version for row in grid} == {"par-max", "par-base", "par-lite", "par-nano", "t2-l8"}
    assert {(c.pruner, c.version) for c in report.comparisons} == {(row.pruner, row.version) for row in grid}
    assert all(cost.ttft is None and 0 < cost.flops_alone < 1 for cost in report.costs)
    assert {each.version for each in report.recommendations} == {"par-max", "par-base", "par-lite", "par-nano"}


@pytest.mark.slow
def test_the_report_speaks_of_a_bundle_that_build_makes(first, tiny, tiny_bundle):
    from allrounder.engines.bundle.reader import open_bundle

    report, manifest = read_report(first), open_bundle(tiny_bundle).manifest
    lite = next(entry for entry in manifest.entries if entry.version == "par-lite")
    row = report.row("par-lite", "dynamic")
    assert report.figures_of(lite, manifest.model) == (row.figures, row.kinds)


@pytest.mark.slow
def test_rows_differ_between_pruners_and_halves_of_the_router_are_its_own(first):
    """The grid's scores really reach the engines: other scores keep other layers and tokens."""
    report = read_report(first)
    at = {row.pruner: row for row in report.rows if row.version == "par-nano" and row.pruning.layer_policy == "dynamic"}
    assert len({row.figures.kl.mean for row in at.values()}) >= len(at) - 1
    assert at["random+random"].layer_use != at["random+shortgpt"].layer_use
    static = at["random+shortgpt"].layer_use
    assert set(static) == {0.0, 1.0}
    assert at["divprune+shortgpt"].layer_use == at["router+shortgpt"].layer_use == static


@pytest.mark.slow
def test_times_are_measured_and_pages_written(place, first, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out, page = tmp_path / "report.json", tmp_path / "report.html"
    assert run_command("report", place.arguments(out, "--page", str(page))) == 0
    report = read_report(out)
    assert all(cost.ttft > 0 and cost.ttft_alone <= cost.ttft for cost in report.costs)
    assert page.read_text(encoding="utf-8").count("<figure") > 6
    again = tmp_path / "again.html"
    capsys.readouterr()
    assert run_command("report", place.arguments(out, "--page-only", "--page", str(again))) == 0
    assert "measured" not in capsys.readouterr().err
    assert again.read_bytes() == page.read_bytes()


@pytest.mark.slow
def test_a_workers_error_ends_the_command(place, first, tmp_path, capsys):
    shutil.copytree(place.questions.parent, tmp_path / "questions")
    broken = tmp_path / "questions" / place.questions.name
    (broken.parent / "3.png").write_bytes(b"no image")
    arguments = place.arguments(tmp_path / "report.json", "--no-timing", "--calib", str(broken))
    assert run_command("report", arguments) == 2
    told = capsys.readouterr().err
    assert "ImageInvalid" in told
    assert "3.png" in told
    assert not (tmp_path / "report.json").exists()
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_command(place, first, tmp_path, capsys):
    place.forget()

    def kill_one():
        while not (workers := multiprocessing.active_children()):
            time.sleep(0.01)
        os.kill(workers[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    code = run_command("report", place.arguments(tmp_path / "report.json", "--no-timing"))
    killer.join()
    assert code == 2
    assert "a worker died" in capsys.readouterr().err
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_damaged_chunk_is_named(place, first, tmp_path, capsys):
    arguments = place.arguments(tmp_path / "report.json", "--no-timing", jobs=1)
    assert run_command("report", arguments) == 0  # where another test forgot the chunks
    victim = place.chunks()[1]
    victim.write_bytes(victim.read_bytes()[:100])
    assert run_command("report", arguments) == 2
    assert victim.name in capsys.readouterr().err
    victim.unlink()


def test_wrong_use_is_refused(place, tiny, tmp_path, capsys):
    def told(*more):
        assert run_command("report", place.arguments(tmp_path / "report.json", *more)) == 2
        return capsys.readouterr().err

    assert "fp32" in told("--device", "cuda")
    assert "fp32" in told("--precision", "fp16")
    assert "--questions" in told("--questions", "0")
    assert "--jobs" in told("--jobs", "0")
    assert "--page" in told("--page-only")
    assert "--rank" in told("--rank", str(place.questions))
    assert run_command("report", ["--model", str(tiny.vlm)]) == 2
    assert "--router, --calib, --rank" in capsys.readouterr().err
    assert not Path(tmp_path / "report.json").exists()
