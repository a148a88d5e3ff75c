"""The real command, killed by SIGKILL wherever it happens to be, goes on to the same router file."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from allrounder.commands.cli import run_command
from allrounder.router.checkpoint import RECORD, WEIGHTS
from allrounder.vlm.random.model import Shape, write_random_checkpoint

STEPS = 12


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> tuple[Path, Path]:
    """A model, and a folder of five images with three questions each: references are made three at a time."""
    vlm = write_random_checkpoint(tmp_path_factory.mktemp("model"), Shape(vision={"image_size": 84}))
    folder = tmp_path_factory.mktemp("prompts")
    for seed in range(5):
        pixels = np.random.default_rng(seed).integers(0, 256, (30, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
        (folder / f"{seed}.txt").write_text("what is this?\nwhere?\nhow many of them are there?\n")
    return vlm, folder


def arguments(setting: tuple[Path, Path], out: Path) -> list[str]:
    vlm, folder = setting
    words = ["--model", str(vlm), "--out", str(out), "--prompts", str(folder), "--steps", str(STEPS), "--batch", "4"]
    options = {"save_every": 3, "validate_every": 5, "answer_tokens": 4, "budgets_per_step": 2}
    options["cache_mib"] = 0  # references are computed again and again
    return words + [word for name, value in options.items() for word in ("--set", f"{name}={value}")]


def begin(setting: tuple[Path, Path], out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "allrounder.commands", "train-router", *arguments(setting, out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said.decode()


def steps(out: Path) -> list[int]:
    log = out / "training" / "log.jsonl"
    text = log.read_text() if log.is_file() else ""
    return [json.loads(line)["step"] for line in text.splitlines() if '"loss"' in line and line.endswith("}")]


def kill_at(process: subprocess.Popen[bytes], out: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while len(steps(out)) < step:
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.communicate()


@pytest.mark.slow
def test_a_killed_command_ends_as_an_unbroken_one(setting, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run_command("train-router", arguments(setting, whole)) == 0
    step = random.SystemRandom().randint(1, STEPS - 2)
    kill_at(begin(setting, broken), broken, step)
    before = steps(broken)
    assert before[-1] < STEPS, f"killed too late, at step {before[-1]}"
    finish(begin(setting, broken))
    assert steps(broken) == steps(whole) == list(range(1, STEPS + 1))
    for name in (WEIGHTS, RECORD):
        assert (whole / name).read_bytes() == (broken / name).read_bytes(), f"{name} differs, killed at step {step}"
