"""Several writers at one place: nothing is lost, locks hold, and what the dead left is removed."""

import os
import shutil

import pytest
from staged import FIDELITY, assert_tidy, build, versions

from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle import locking
from allrounder.engines.bundle.locking import exclusive, hold_directory
from allrounder.engines.bundle.publish import Staging, publish
from allrounder.engines.bundle.reader import POINTER, manifest_name, open_bundle
from allrounder.errors import BundleBusy, BundleCorrupt, BundleMismatch


def test_two_stagings_at_once_lose_nothing(freeze, place):
    build(place, freeze("full"))
    with Staging(place) as one, Staging(place) as other:
        backend("onnxruntime").build(freeze("par-lite"), one, BuildOptions())
        backend("onnxruntime").build(freeze("par-nano"), other, BuildOptions())
        publish(one)
        publish(other)
    assert versions(open_bundle(place)) == ["full", "par-lite", "par-nano"]
    assert_tidy(place)


def test_two_new_bundles_at_once_become_one(freeze, place):
    with Staging(place) as one, Staging(place) as other:
        backend("onnxruntime").build(freeze("par-lite"), one, BuildOptions())
        backend("onnxruntime").build(freeze("par-nano", "par-lite", salt="x"), other, BuildOptions())
        publish(one)
        assert publish(other) == open_bundle(place)
    assert versions(open_bundle(place)) == ["par-lite", "par-nano"]
    assert_tidy(place)


def test_a_foreign_bundle_that_came_first_stays(freeze, place):
    with Staging(place) as one, Staging(place) as other:
        backend("onnxruntime").build(freeze("par-lite"), one, BuildOptions())
        backend("onnxruntime").build(freeze("par-lite", vlm="another"), other, BuildOptions())
        first = publish(one)
        with pytest.raises(BundleMismatch, match="another model"):
            publish(other)
    assert open_bundle(place) == first
    assert_tidy(place)


def test_a_bundle_that_was_removed_meanwhile_is_written_whole(freeze, place):
    build(place, freeze("full"))
    with Staging(place) as staging:
        backend("onnxruntime").build(freeze("par-lite"), staging, BuildOptions())
        shutil.rmtree(place)
        publish(staging)
    assert versions(open_bundle(place)) == ["full", "par-lite"]
    assert_tidy(place)


def test_files_that_another_writer_removed_come_back_with_their_entry(freeze, place):
    build(place, freeze("par-lite"))
    with Staging(place) as staging:
        (entry,) = staging.manifest.entries
        staging.set_figures({entry.key: (FIDELITY, None)})
        build(place, freeze("par-lite", salt="other"))
        assert not (place / entry.graphs.decoder).exists()
        publish(staging)
    assert open_bundle(place).manifest.entries[0].graphs == entry.graphs
    assert_tidy(place)


def test_what_no_manifest_lists_is_swept_by_the_next_publish(freeze, place, tmp_path):
    """What an interrupted publish left, or anybody else; links are removed, not followed."""
    build(place, freeze("par-lite"))
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "mine").write_text("mine")
    (place / "left").symlink_to(precious)
    (place / "graphs/never/came").mkdir(parents=True)
    for left in ("graphs/left.onnx", "graphs/never/x", manifest_name("0" * 64), f"{POINTER}.new"):
        (place / left).write_bytes(b"left")
    build(place, freeze("par-nano"))
    assert_tidy(place)
    assert (precious / "mine").read_text() == "mine"


def test_a_pointer_that_cannot_be_read_is_no_place_to_build_at(freeze, place):
    build(place, freeze("par-lite"))
    (place / POINTER).write_text("{}")
    with pytest.raises(BundleCorrupt, match="root pointer is malformed"):
        Staging(place)
    assert list(place.parent.iterdir()) == [place]


def test_staging_folders_of_the_dead_are_removed_and_those_of_the_living_are_not(freeze, place):
    place.parent.mkdir()
    (place.parent / ".demo.staging-1-dead").mkdir()
    (place.parent / ".demo.staging-1-dead" / "large.bin").write_bytes(b"x")
    (place.parent / ".demo.lock").write_text("pid 1 on nowhere\n")
    (place.parent / ".demo2.staging-1-other").mkdir()
    with Staging(place) as living:
        with Staging(place) as staging:
            backend("onnxruntime").build(freeze("par-lite"), staging, BuildOptions())
            publish(staging)
        assert living.path.exists()
    assert sorted(path.name for path in place.parent.iterdir()) == [".demo2.staging-1-other", "demo"]


def test_one_writer_at_a_time(place):
    place.parent.mkdir()
    with exclusive(place):
        with pytest.raises(BundleBusy, match=rf"pid {os.getpid()} on .*wait for it"), exclusive(place, wait_s=0.1):
            pass
        assert (place.parent / ".demo.lock").exists()
    with exclusive(place, wait_s=0.1):
        pass
    assert list(place.parent.iterdir()) == []


def test_a_lock_file_that_was_removed_locks_nothing(place, monkeypatch):
    """The holder before removes the file while another waits for it: that one must lock the new file."""
    place.parent.mkdir()
    path = place.parent / ".demo.lock"
    real, raced = locking.fcntl.flock, []

    def race(handle, operation):
        real(handle, operation)
        if not raced:
            raced.append(path.unlink())

    monkeypatch.setattr(locking.fcntl, "flock", race)
    with exclusive(place):
        assert path.exists()
    assert raced


def test_a_directory_is_held_once(place):
    place.mkdir(parents=True)
    handle = hold_directory(place)
    assert hold_directory(place) is None
    os.close(handle)
    again = hold_directory(place)
    assert again is not None
    os.close(again)
