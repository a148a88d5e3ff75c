"""The native gather op in Python's runtime, without its library: what is registered where, and what is said.

With the library: tests/native/test_parity_op.py.
"""

import logging

import fake_bundle
import numpy as np
import pytest

from allrounder.commands import cli
from allrounder.engines.onnxruntime import session as onnxruntime_backend
from allrounder.errors import BackendError
from allrounder.runtime import Runtime

RGB = np.random.default_rng(3).integers(0, 256, (9, 7, 3), np.uint8)


@pytest.fixture
def asking(tmp_path):
    """A bundle whose pruned entry asks for the op, and whose `full` does not."""
    entries = [fake_bundle.entry("full"), fake_bundle.entry("t2-l2", native_op=True)]
    return fake_bundle.write_bundle(tmp_path / "asking", entries)


@pytest.fixture
def op_library(monkeypatch):
    """Sets which library this installation has."""
    onnxruntime_backend._log_once.cache_clear()

    def install(path):
        monkeypatch.setattr(onnxruntime_backend, "ort_ops", lambda: path)

    yield install
    onnxruntime_backend._log_once.cache_clear()


def answer(bundle, version):
    with Runtime.load(bundle, version=version, threads=1) as runtime:
        return runtime.generate(RGB, fake_bundle.QUESTION, max_new_tokens=4)


def test_without_the_library_the_same_file_runs_and_the_log_says_so_once(asking, tmp_path, op_library, caplog):
    op_library(None)
    plain = fake_bundle.write_bundle(tmp_path / "plain")
    with caplog.at_level(logging.INFO, logger="allrounder.runtime"):
        found, again = answer(asking, "t2-l2"), answer(asking, "t2-l2")
    told = [record for record in caplog.records if "native gather op" in record.message]
    assert [record.levelname for record in told] == ["INFO"]
    assert "its own function runs instead" in told[0].message
    wanted = answer(plain, "t2-l2")
    for each in (found, again):
        assert (each.token_ids, each.keep_indices) == (wanted.token_ids, wanted.keep_indices)


def test_a_bundle_that_does_not_ask_has_nothing_to_do_with_the_library(tmp_path, op_library, caplog):
    op_library(tmp_path / "none.so")  # could not be registered
    plain = fake_bundle.write_bundle(tmp_path / "plain")
    with caplog.at_level(logging.INFO, logger="allrounder.runtime"):
        answer(plain, "t2-l2")
    assert not [record for record in caplog.records if "native" in record.message]


def test_only_entries_that_ask_meet_a_library_that_cannot_be_loaded(asking, tmp_path, op_library):
    library = tmp_path / "broken.so"
    library.write_bytes(b"no library")
    op_library(library)
    answer(asking, "full")
    with pytest.raises(BackendError, match=r"refuses the native gather op.*broken\.so.*remedy"):
        answer(asking, "t2-l2")


def test_only_graphs_that_gather_are_registered(asking, tmp_path, op_library, monkeypatch):
    """Else vision and router graphs would no longer be shared between entries with the op and without."""
    opened = []
    real = onnxruntime_backend.open_session

    def open_session(path, options, *, native_op=False):
        opened.append((path.name, native_op))
        return real(path, options, native_op=native_op)

    op_library(None)
    monkeypatch.setattr(onnxruntime_backend, "open_session", open_session)
    answer(asking, "t2-l2")
    assert dict(opened) == {
        "vision.onnx": False,
        "router.onnx": False,
        "t2-l2.decoder.onnx": True,
    }


def test_inspect_shows_who_asks(asking, capsys):
    assert cli.main(["inspect", str(asking)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("version", "full", "t2-l2"))]
    assert "native op" in rows[0]
    assert ["asked for" in row for row in rows[1:3]] == [False, True]
