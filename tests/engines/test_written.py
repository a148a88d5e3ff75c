"""Lists of what this project's tools wrote: what is as listed is theirs, everything else is a user's."""

import shutil
import subprocess

import pytest

from allrounder.engines.written import LIST, list_written, written
from allrounder.hashing import list_files


@pytest.fixture
def serving(tmp_path):
    """A folder inside another, listed; beside it, and in it, files of a user."""
    folder = tmp_path / "root" / "serving"
    (folder / "module").mkdir(parents=True)
    for name in ("config.yaml", "module/__init__.py", "a file"):
        (folder / name).write_text(name)
    list_written(folder)
    return folder


def ours(folder, known=()):
    root = folder.parent
    return written(root, set(list_files(root)), known)


ALL = {"serving/config.yaml", "serving/module/__init__.py", "serving/a file", f"serving/{LIST}"}


def test_what_is_as_listed_is_ours(serving):
    assert ours(serving) == ALL


def test_what_was_changed_or_added_is_not(serving):
    (serving / "config.yaml").write_text("mine")
    (serving / "notes.txt").write_text("mine")
    (serving.parent / "config.yaml").write_text("config.yaml")  # the same bytes, in no list
    (serving / "a file").unlink()
    assert ours(serving) == {"serving/module/__init__.py", f"serving/{LIST}"}


def test_bytecode_goes_with_its_module(serving):
    for name in ("module/__pycache__/__init__.cpython-311.pyc", "module/__pycache__/other.cpython-311.pyc"):
        (serving / name).parent.mkdir(exist_ok=True)
        (serving / name).write_bytes(b"\0")
    assert ours(serving) == ALL | {"serving/module/__pycache__/__init__.cpython-311.pyc"}
    also = ours(serving, known={"serving/module/other.py"})
    assert "serving/module/__pycache__/other.cpython-311.pyc" in also


def test_a_damaged_list_claims_nothing_else(serving):
    (serving.parent / "precious").write_text("mine")
    text = (serving / LIST).read_text().replace("config.yaml", "../precious")
    (serving / LIST).write_bytes(text.encode() + b"\xff\x00\n" + b"0" * 64 + b"  module/__init__.py\n\n")
    assert ours(serving) == {"serving/a file", f"serving/{LIST}"}


def test_it_is_the_format_of_sha256sum(serving):
    tool = shutil.which("sha256sum")
    if tool is None:
        pytest.skip("sha256sum is not installed")
    subprocess.run([tool, "--check", "--strict", "--quiet", LIST], cwd=serving, check=True)
    made = subprocess.run([tool, "-b", "./config.yaml"], cwd=serving, check=True, capture_output=True, text=True)
    (serving / LIST).write_text(made.stdout)
    assert ours(serving) == {"serving/config.yaml", f"serving/{LIST}"}
