"""What many tests share: a tiny random model with router and prompts, and a bundle that the real command built of it.

They are made once per session and must not be changed; a test that writes works on a copy.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of each worker: read when numpy and torch are imported

import numpy as np
import pytest
from PIL import Image

pytest_plugins = ["frozen_directory"]  # tests/helpers
IMAGES, QUESTIONS = 4, 3


class Tiny(NamedTuple):
    """Directories of a random model, and a prompts file whose answers are nonsense in half of the lines."""

    vlm: Path
    router: Path
    prompts: Path

    def arguments(self, out: Path, *more: str) -> list[str]:
        """The arguments of `build` for this model; one entry per version, where nothing else is asked: dynamic ones."""
        paths = ("--model", self.vlm, "--router", self.router, "--calib", self.prompts, "--out", out)
        policy = () if {"--backend", "--layer-policy"} & set(more) else ("--layer-policy", "dynamic")
        return [*map(str, paths), *policy, *more]


def write_prompts(folder: Path) -> Path:
    """Writes images and a prompts file, 12 questions of two kinds."""
    folder.mkdir()
    lines = []
    for image in range(IMAGES):
        pixels = np.random.default_rng(image).integers(0, 256, (40, 52, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{image}.png")
        for number in range(QUESTIONS):
            line = {"image": f"{image}.png", "question": f"what is number {number}?", "kind": f"kind {number % 2}"}
            lines.append(json.dumps(line | ({"answer": "a red one"} if number % 2 else {})))
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session", autouse=True)
def _session_cache(tmp_path_factory):
    """Keeps what the tests remember away from the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny tensors on one thread: several that fight for two cores make these tests many times slower."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Makes a folder once for all workers of a session: ``once(name, make)`` calls ``make(folder)`` where it is new."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all workers

    def get(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = root / f"once-{name}", root / f"once-{name}.done"
        with (root / f"once-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():  # also where another worker failed half-way
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def tiny(once) -> Tiny:
    """A random model of 8 layers and 16 image tokens: par-lite keeps 6 and 4 of them."""

    def make(folder: Path) -> None:
        from allrounder.commands.pipeline.random_model import write_random_model
        from allrounder.vlm.random.model import Shape

        write_random_model(folder, Shape(text={"num_hidden_layers": 8}, vision={"image_size": 56}))
        write_prompts(folder / "prompts")

    folder = once("tiny", make)
    return Tiny(folder / "model", folder / "router", folder / "prompts" / "prompts.jsonl")


@pytest.fixture(scope="session")
def tiny_bundle(tiny, once) -> Path:
    """A bundle with full and par-lite (dynamic, fp32, K=2) of `tiny`."""

    def make(folder: Path) -> None:
        from allrounder import build_engine

        assert build_engine.main(tiny.arguments(folder / "bundle", "--version", "full,par-lite")) == 0

    return once("tiny-bundle", make) / "bundle"


@pytest.fixture
def bundle_copy(tiny_bundle, tmp_path) -> Path:
    """A copy of `tiny_bundle` to be changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
