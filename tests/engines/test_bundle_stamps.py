"""Stamps: an unchanged bundle opens without hashing, a changed one never does; and where they lie."""

import json
import logging
import os
import time
from pathlib import Path

import pytest

from allrounder import userdirs
from allrounder.commands import cli
from allrounder.engines.bundle import stamps
from allrounder.engines.bundle.reader import manifest_name, open_bundle
from allrounder.engines.bundle.staging import point_to
from allrounder.errors import BundleCorrupt
from allrounder.userdirs import cache_dir, write_whole

SETTLED_NS, HOUR_NS = stamps._SETTLED_NS, 3_600_000_000_000


@pytest.fixture
def hashed(monkeypatch):
    """Tells what was hashed, opening by opening; files settle at once."""
    monkeypatch.setattr(stamps, "_SETTLED_NS", 0)
    calls = []

    def verify(root, files, *rest):
        calls.append(root)
        return verify_files(root, files, *rest)

    verify_files = stamps.verify_files
    monkeypatch.setattr(stamps, "verify_files", verify)
    return calls


def stamp_files(cache):
    return list((cache / "allrounder" / "stamps").glob("*"))


def changed(bundle, change):
    """Publishes a changed manifest over the same files."""
    plain = json.loads((bundle / manifest_name(open_bundle(bundle).digest)).read_bytes())
    change(plain)
    point_to(bundle, json.dumps(plain).encode())


def test_a_new_manifest_over_the_same_files_hashes_nothing(bundle, hashed):
    """Figures, say: they are no reason to read weights."""
    changed(bundle, lambda plain: plain.update(producer="next"))
    assert open_bundle(bundle).manifest.producer == "next"
    assert len(hashed) == 1


def test_a_stamp_of_other_content_does_not_count(bundle, hashed):
    """A file of unchanged state, of which the manifest now says something else, is hashed and refused."""
    changed(bundle, lambda plain: plain["files"]["tokenizer/tokenizer.json"].update(sha256="0" * 64))
    with pytest.raises(BundleCorrupt, match="has changed"):
        open_bundle(bundle)


def test_the_second_load_hashes_nothing(bundle, hashed, own_cache):
    first = open_bundle(bundle)
    assert open_bundle(bundle) == first
    assert len(hashed) == 1
    assert len(stamp_files(own_cache)) == 1


def test_a_change_is_noticed_even_with_its_time_set_back(bundle, hashed):
    open_bundle(bundle)
    path = next((bundle / "graphs/weights").iterdir())
    before, data = path.stat(), bytearray(path.read_bytes())
    time.sleep(0.02)  # one tick of the kernel's clock for file times
    data[-1] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    with pytest.raises(BundleCorrupt, match="has changed"):
        open_bundle(bundle)


def test_a_file_written_this_very_moment_is_not_stamped(bundle, hashed, monkeypatch):
    monkeypatch.setattr(stamps, "_SETTLED_NS", HOUR_NS)  # as if everything were written just now
    open_bundle(bundle)
    open_bundle(bundle)
    assert len(hashed) == 2
    monkeypatch.setattr(stamps, "_SETTLED_NS", SETTLED_NS)
    time.sleep(SETTLED_NS / 1e9)
    open_bundle(bundle)
    open_bundle(bundle)
    assert len(hashed) == 3


def test_a_file_that_changes_its_state_while_it_is_hashed_is_not_stamped(bundle, hashed):
    def link(task, done, total):
        (bundle.parent / f"link{time.monotonic_ns()}").hardlink_to(bundle / "tokenizer/tokenizer.json")

    time.sleep(0.02)
    open_bundle(bundle, progress=link)
    open_bundle(bundle)
    open_bundle(bundle)
    assert len(hashed) == 2


def test_a_copy_elsewhere_and_a_moved_bundle_are_hashed(bundle, hashed):
    open_bundle(bundle)
    bundle.rename(bundle.with_name("moved"))
    open_bundle(bundle.with_name("moved"))
    assert len(hashed) == 2


def test_a_touched_file_is_hashed_once_more(bundle, hashed):
    open_bundle(bundle)
    time.sleep(0.02)
    os.utime(bundle / "tokenizer/tokenizer.json")
    open_bundle(bundle)
    open_bundle(bundle)
    assert len(hashed) == 2


def test_a_missing_file_is_noticed_in_a_stamped_bundle_and_an_unlisted_one_is_nothing(bundle, hashed):
    open_bundle(bundle)
    (bundle / "extra").write_bytes(b"")
    open_bundle(bundle)
    assert len(hashed) == 1
    (bundle / "tokenizer/tokenizer.json").unlink()
    with pytest.raises(BundleCorrupt, match="missing"):
        open_bundle(bundle)


def test_verify_hashes_whatever_was_hashed_before(bundle, hashed, capsys):
    opened = open_bundle(bundle)
    assert cli.main(["verify", str(bundle)]) == 0
    printed, told = capsys.readouterr()
    assert len(hashed) == 2
    assert f"{len(opened.manifest.files)} files" in printed
    assert opened.digest in printed
    assert "verifying (MiB): 1/1" in told


def test_verify_names_the_file_that_a_stamp_would_let_pass(bundle, hashed, monkeypatch, capsys):
    open_bundle(bundle)
    path = bundle / "tokenizer/tokenizer.json"
    path.write_bytes(bytes(path.stat().st_size))
    monkeypatch.setattr(stamps, "_stamp", lambda *_: bundle)  # as if nothing had changed
    open_bundle(bundle)
    assert cli.main(["verify", str(bundle)]) == 2
    assert f"a file has changed; where: {path}" in capsys.readouterr().err


def test_without_a_writable_cache_it_is_hashed_each_time_and_said_so(bundle, hashed, own_cache, caplog):
    own_cache.write_bytes(b"a file, so that nothing can be made below it")
    with caplog.at_level(logging.INFO, logger="allrounder"):
        open_bundle(bundle)
        open_bundle(bundle)
    assert len(hashed) == 2
    assert "hashed at every load" in caplog.text


def test_a_path_that_is_no_text(bundle, hashed):
    odd = os.fsdecode(os.fsencode(bundle.parent) + b"/\xff")
    bundle.rename(odd)
    assert open_bundle(odd).path == Path(odd)
    open_bundle(odd)
    assert len(hashed) == 1


def test_without_a_home(bundle, hashed, monkeypatch, caplog):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_dir() is None
    with caplog.at_level(logging.INFO, logger="allrounder"):
        open_bundle(bundle)
        open_bundle(bundle)
    assert len(hashed) == 2
    assert "no home directory" in caplog.text


def no_home():
    raise RuntimeError("Could not determine home directory.")


def test_stamps_of_older_states_and_of_bundles_that_are_gone_are_removed(bundle, hashed, own_cache):
    open_bundle(bundle)
    time.sleep(0.02)
    os.utime(bundle / "tokenizer/tokenizer.json")
    open_bundle(bundle)
    assert len(stamp_files(own_cache)) == 1
    (stamp_files(own_cache)[0].parent / "nonsense").write_bytes(b"\x00\xff")
    bundle.rename(bundle.with_name("moved"))
    open_bundle(bundle.with_name("moved"))
    assert len(stamp_files(own_cache)) == 1


def test_a_failed_verification_leaves_no_stamp(bundle, hashed, own_cache):
    path = bundle / "tokenizer/tokenizer.json"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(BundleCorrupt):
        open_bundle(bundle)
    assert stamp_files(own_cache) == []


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "allrounder"
    for ignored in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_dir() == tmp_path / ".cache" / "allrounder"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == tmp_path / ".cache" / "allrounder"


def test_a_write_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "new" / "folder" / "file"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]
    assert path.parent.stat().st_mode & 0o077 == 0

    def refuse(self, target):
        raise OSError("no")

    monkeypatch.setattr(userdirs.Path, "replace", refuse)
    with pytest.raises(OSError, match="no"):
        write_whole(path, b"three")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]
