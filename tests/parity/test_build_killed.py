"""The real build killed at random moments: the place holds the old bundle or the new one, and the next build cleans up.

Builds run in processes forked from one that has imported everything, so that the moments fall into the work.
"""

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from allrounder import build_engine
from allrounder.engines.bundle.reader import open_bundle

ROUNDS = 6
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["allrounder.commands.pipeline.build", "allrounder.engines.onnxruntime.build"])
    first = context.Process(
        target=time.sleep, args=(0,)
    )  # waits for the imports, so that builds are timed without them
    first.start()
    first.join()
    return context


def place_of(arguments):
    return Path(arguments[arguments.index("--out") + 1])


def seconds_of(processes, arguments):
    """Lets the build end and returns how long it took."""
    started = time.monotonic()
    process = processes.Process(target=build_engine.main, args=(arguments,))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    open_bundle(place_of(arguments))
    return time.monotonic() - started


def kill_after(processes, arguments, seconds):
    """Kills the build after so many seconds; returns whether it was still running."""
    process = processes.Process(target=build_engine.main, args=(arguments,))
    process.start()
    process.join(seconds)
    running = process.is_alive()
    if running:
        os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    # A build may end by itself between the question and the kill; without a kill it must have ended well.
    assert process.exitcode in ((-signal.SIGKILL, 0) if running else (0,))
    return process.exitcode == -signal.SIGKILL


def moments(duration):
    """Random moments over the whole of a build, the end included."""
    return np.random.default_rng(5).uniform(0.05, 1.0, ROUNDS) * duration


def test_a_killed_new_bundle_is_absent_or_whole(processes, tiny, tmp_path):
    arguments = tiny.arguments(tmp_path / "timed", "--version", "par-lite")
    duration = seconds_of(processes, arguments)
    killed = 0
    for number, moment in enumerate(moments(duration)):
        place = tmp_path / f"new-{number}" / "b"
        killed += kill_after(processes, tiny.arguments(place, "--version", "par-lite"), moment)
        if place.exists():
            assert [entry.version for entry in open_bundle(place).manifest.entries] == ["par-lite"]
    assert killed >= 2, "the moments missed the build"
    # The next build at the place of a killed one finishes, and leaves nothing of the dead one.
    place = tmp_path / "new-0" / "b"
    seconds_of(processes, tiny.arguments(place, "--version", "par-lite"))
    assert [path.name for path in place.parent.iterdir()] == ["b"]


def test_a_killed_addition_leaves_the_old_bundle_or_the_new_one(processes, tiny, tiny_bundle, tmp_path):
    def copy(name) -> Path:
        return Path(shutil.copytree(tiny_bundle, tmp_path / name / "b"))

    def arguments(place):
        return tiny.arguments(place, "--version", "par-nano", "--layer-policy", "static")

    old = open_bundle(tiny_bundle).manifest
    duration = seconds_of(processes, arguments(copy("timed")))
    killed = 0
    for number, moment in enumerate(moments(duration)):
        place = copy(f"added-{number}")
        killed += kill_after(processes, arguments(place), moment)
        manifest = open_bundle(place).manifest
        versions = [entry.version for entry in manifest.entries]
        assert manifest == old or versions == ["full", "par-lite", "par-nano"]
    assert killed >= 2, "the moments missed the build"
    place = tmp_path / "added-0" / "b"
    seconds_of(processes, arguments(place))
    assert [entry.version for entry in open_bundle(place).manifest.entries] == ["full", "par-lite", "par-nano"]
    assert [path.name for path in place.parent.iterdir()] == ["b"]
