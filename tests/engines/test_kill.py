"""Builds that are killed: the bundle opens as the old one or the new one, and the next build tidies up.

The real code runs in children of a process that has everything imported (a "zygote", so that a child costs
milliseconds), and is ended by SIGKILL: at random moments of the whole build, and before each single operation on the
file system that publishing performs.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from allrounder.engines.bundle.reader import POINTER, manifest_name, open_bundle

ZYGOTE = """
import os
import signal
import sys
from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle.publish import Staging, publish

build = backend("onnxruntime").build
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.scandir", "shutil.rmtree"}

def kill_before(count):
    left = count
    def hook(event, arguments):
        nonlocal left
        if event in EVENTS:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

while line := sys.stdin.readline():
    place, frozen, operation, rounds = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if not child:
        for number in range(int(rounds)):
            with Staging(place) as staging:
                build(frozen.split("|")[number % 2], staging, BuildOptions())
                if int(operation):
                    kill_before(int(operation))
                publish(staging)
        os._exit(0)
    print(child, flush=True)
    sys.stdin.readline()  # until then the child stays a zombie, so that its number is nobody else's
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Child(NamedTuple):
    """A build in a child of the zygote."""

    pid: int
    process: subprocess.Popen

    def wait(self):
        """Returns the child's wait status."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def runs(self):
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2][0] != "Z"


@pytest.fixture(scope="module")
def zygote(tmp_path_factory):
    """Returns a function that starts a build in a fresh child."""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", ZYGOTE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path_factory.mktemp("cwd"),
    ) as process:

        def start(place, *frozen, operation=0, rounds=1):
            process.stdin.write(f"{place}\t{'|'.join(map(str, frozen * 2))}\t{operation}\t{rounds}\n")
            process.stdin.flush()
            return Child(int(process.stdout.readline()), process)

        yield start
        process.stdin.close()


class Scene(NamedTuple):
    """What is built, and which digests the place may show afterwards; None stands for no bundle."""

    place: object
    start: object  # makes the place what it is before the build
    frozen: object
    old: str | None
    new: str


def digest_at(place):
    return open_bundle(place).digest if place.exists() else None


@pytest.fixture(params=["new", "added"])
def scene(request, zygote, freeze, tmp_path):
    """A new bundle, and one to which a version is added while another is replaced."""
    place, seed = tmp_path / "out" / "demo", tmp_path / "seed"
    frozen = freeze("par-nano", "par-lite", salt="next")
    if request.param == "added":
        assert zygote(seed, freeze("full", "par-lite")).wait() == 0

    def start():
        shutil.rmtree(place.parent, ignore_errors=True)
        place.parent.mkdir()
        if seed.exists():
            shutil.copytree(seed, place)

    start()
    old = digest_at(place)
    assert zygote(place, frozen).wait() == 0
    new = digest_at(place)
    assert len({old, new}) == 2
    return Scene(place, start, frozen, old, new)


def assert_harmless(scene, zygote):
    """After a kill: old or new; after the next build: new, and no litter."""
    assert digest_at(scene.place) in {scene.old, scene.new}
    seen = digest_at(scene.place)
    assert zygote(scene.place, scene.frozen).wait() == 0
    opened = open_bundle(scene.place)
    assert opened.digest == scene.new
    assert list(scene.place.parent.iterdir()) == [scene.place]
    files = {str(path.relative_to(scene.place)) for path in scene.place.rglob("*") if path.is_file()}
    assert files == {*opened.manifest.files, POINTER, manifest_name(opened.digest)}
    return seen


def test_killed_at_random_moments_of_the_build(scene, zygote):
    moments, longest, killed, attempts = random.Random(0), 0.1, 0, 0
    while killed < 20:
        scene.start()
        child = zygote(scene.place, scene.frozen)
        time.sleep(moments.uniform(0, longest))
        os.kill(child.pid, signal.SIGKILL)
        if child.wait() == signal.SIGKILL:
            killed, longest = killed + 1, longest * 1.1
        else:
            longest *= 0.8  # it had come to its end before: this machine is faster now
        assert_harmless(scene, zygote)
        attempts += 1
        assert attempts < 200


def test_killed_before_each_single_operation_of_publishing(scene, zygote):
    seen = []
    for operation in range(1, 500):
        scene.start()
        status = zygote(scene.place, scene.frozen, operation=operation).wait()
        if status == 0:
            break
        assert status == signal.SIGKILL
        seen.append(assert_harmless(scene, zygote))
    assert status == 0
    assert {scene.old, scene.new} == set(seen)
    assert seen == sorted(seen, key=lambda digest: digest == scene.new)  # once it is new it stays new


def test_readers_beside_a_writer_meet_only_whole_bundles(zygote, freeze, tmp_path):
    place = tmp_path / "out" / "demo"
    both = freeze("par-lite", salt="a"), freeze("par-lite", "par-nano", salt="b")
    assert zygote(place, *both, rounds=2).wait() == 0
    writer = zygote(place, *both, rounds=30)
    digests = set()
    while writer.runs():
        digests.add(open_bundle(place).digest)
    assert writer.wait() == 0
    assert len(digests) == 2
