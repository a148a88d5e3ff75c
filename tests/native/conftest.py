"""Where tests of the native half find what was built.

`ALLROUNDER_NATIVE_BUILD` names the CMake build folder of native/. Without it these tests are skipped; with it, a
program that is not there is a failure, so that nothing passes by being skipped.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the C++ unit tests: `full` and `t2-l2`."""
    folder = tmp_path_factory.mktemp("small") / "bundle"
    subprocess.run([sys.executable, ROOT / "native/tests/write_bundle.py", folder], check=True)
    return folder


@pytest.fixture(scope="session")
def native_build() -> Path:
    """The CMake build folder of native/."""
    named = os.environ.get("ALLROUNDER_NATIVE_BUILD")
    if not named:
        pytest.skip("ALLROUNDER_NATIVE_BUILD names no build of native/")
    folder = Path(named).resolve()
    if not (folder / "CMakeCache.txt").is_file():
        pytest.fail(f"ALLROUNDER_NATIVE_BUILD={named} is no CMake build folder: it has no CMakeCache.txt")
    return folder


@pytest.fixture(scope="session")
def program(native_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Finds a built program or library by its file name: ``program("allrounder-native")``.

    Where the build is for another processor, `ALLROUNDER_NATIVE_EMULATOR` is the command that runs its programs.
    """
    emulator = os.environ.get("ALLROUNDER_NATIVE_EMULATOR")

    def find(name: str) -> Path:
        found = [path for path in native_build.rglob(name) if path.is_file()]
        if len(found) != 1:
            pytest.fail(f"{native_build} holds {len(found)} files named {name}, wanted one: was it built?")
        if emulator is None or found[0].suffix == ".so":
            return found[0]
        script = tmp_path_factory.mktemp("emulated") / name
        script.write_text(f'#!/bin/sh\nexec {emulator} {found[0]} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
        return script

    return find


@pytest.fixture(scope="module")
def native_library(program: Callable[[str], Path]) -> Iterator[Path]:
    """The runtime's shared library, for the length of a module the one that `allrounder.native` finds."""
    library = program("liballrounder.so")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALLROUNDER_NATIVE_LIBRARY_DIR", str(library.parent))
        yield library


@pytest.fixture(scope="session")
def prefix(native_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `cmake --install` lays down of the build."""
    folder = tmp_path_factory.mktemp("prefix")
    command = ["cmake", "--install", str(native_build), "--prefix", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def demo_bundle(native_build: Path, once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """The shipped model as `full`, dynamic `par-lite` and static `par-nano`, built by the command of the README.

    `ALLROUNDER_NATIVE_BUNDLE` names one that was built before, to save that minute again and again.
    """
    if named := os.environ.get("ALLROUNDER_NATIVE_BUNDLE"):
        return Path(named).resolve()

    def make(folder: Path) -> None:
        from allrounder import build_engine

        out = str(folder / "bundle")
        assert build_engine.main(["--version", "full,par-lite", "--layer-policy", "dynamic", "--out", out]) == 0
        assert build_engine.main(["--version", "par-nano", "--layer-policy", "static", "--out", out]) == 0

    return once("demo-bundle", make) / "bundle"
