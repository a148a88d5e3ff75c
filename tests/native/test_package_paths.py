"""`allrounder.native` says where the native half lies, and says so too where there is none."""

import subprocess
import sys

import pytest

from allrounder import native
from allrounder.errors import EngineUnavailable, InputInvalid
from allrounder.native import c_api

VARIABLE = "ALLROUNDER_NATIVE_LIBRARY_DIR"
PARTS = {
    "library": ("liballrounder.so", native.library),
    "ort_ops": ("liballrounder_ort_ops.so", native.ort_ops),
    "tensorrt_plugin": ("liballrounder_tensorrt_plugin.so", native.tensorrt_plugin),
    "cmake_dir": ("cmake/allrounder", native.cmake_dir),
}


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """An installation without the native half, whatever the one is that runs these tests."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(native, "__path__", [str(tmp_path / "sources"), str(tmp_path / "built")])
    return tmp_path


@pytest.mark.parametrize("part", PARTS)
def test_a_pure_installation_has_none_and_says_what_to_do(nothing, part):
    name, find = PARTS[part]
    assert find() is None
    with pytest.raises(EngineUnavailable, match=name) as caught:
        native.require(part)
    for wanted in (str(nothing / "sources/lib"), str(nothing / "built/lib"), "remedy", "native/README.md"):
        assert wanted in str(caught.value)


@pytest.mark.parametrize("part", PARTS)
def test_what_was_built_is_found_in_any_folder_of_the_package(nothing, part):
    name, find = PARTS[part]
    path = nothing / "built/lib" / name
    path.parent.mkdir(parents=True)
    path.touch()
    assert find() == native.require(part) == path


def test_a_named_folder_is_the_only_one(nothing, monkeypatch):
    installed = nothing / "sources/lib/liballrounder.so"
    installed.parent.mkdir(parents=True)
    installed.touch()
    named = nothing / "named"
    named.mkdir()
    monkeypatch.setenv(VARIABLE, str(named))
    assert native.library() is None
    (named / "liballrounder.so").touch()
    assert native.library() == named / "liballrounder.so"
    monkeypatch.setenv(VARIABLE, str(nothing / "no such"))
    with pytest.raises(InputInvalid, match=VARIABLE):
        native.library()


def test_the_client_says_that_there_is_no_library(nothing):
    c_api.open_library.cache_clear()
    with pytest.raises(EngineUnavailable, match=r"liballrounder\.so"):
        c_api.open_library()


def test_importing_it_needs_nothing():
    code = "import sys, allrounder.native; print('ctypes' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd="/")
    assert done.stdout == "False False\n"
