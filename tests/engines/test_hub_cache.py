"""Bundles in the hub's cache: files that are links into the cache's own blobs open, other links do not."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from allrounder.engines.bundle.reader import POINTER, open_bundle
from allrounder.engines.bundle.staging import Staging
from allrounder.errors import BackendError, BundleCorrupt, BundleError

TOKENIZER = "tokenizer/tokenizer.json"


@pytest.fixture
def snapshot(bundle, tmp_path):
    """The small bundle as `huggingface_hub.snapshot_download` leaves it."""
    cache = tmp_path / "hub" / "models--me--demo"
    for number, file in enumerate(path for path in sorted(bundle.rglob("*")) if path.is_file()):
        blob, link = cache / "blobs" / f"{number:040x}", cache / "snapshots" / ("a" * 40) / file.relative_to(bundle)
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return cache / "snapshots" / ("a" * 40)


def point(link: Path, target: Path) -> None:
    link.unlink()
    link.symlink_to(target)


def test_it_opens_as_the_same_bundle_does_elsewhere(snapshot, bundle):
    opened = open_bundle(snapshot)
    assert opened.path == snapshot
    assert opened[1:] == open_bundle(bundle)[1:]
    assert open_bundle(snapshot, again=True) == opened


def test_onnx_runtime_runs_its_graphs_with_weights_behind_links(snapshot, bundle):
    x = np.ones((2, 4), np.float32)
    for entry in open_bundle(snapshot).manifest.entries:
        linked, plain = (
            onnxruntime.InferenceSession(root / entry.graphs.decoder, providers=["CPUExecutionProvider"])
            for root in (snapshot, bundle)
        )
        np.testing.assert_array_equal(linked.run(None, {"x": x})[0], plain.run(None, {"x": x})[0])


def test_openvino_says_what_to_do(snapshot, bundle):
    pytest.importorskip("openvino")
    from allrounder.engines.openvino.session import open_session
    from allrounder.engines.options import EngineOptions

    graph = open_bundle(snapshot).manifest.entries[0].graphs.decoder
    with pytest.raises(BackendError, match="cp -rL"):
        open_session(snapshot / graph, EngineOptions(threads=1))


@pytest.mark.parametrize("name", [POINTER, TOKENIZER])
def test_links_out_of_the_cache_are_refused(snapshot, tmp_path, name):
    whole = (snapshot / name).read_bytes()
    other = tmp_path / "hub" / "models--me--other" / "blobs" / "0"
    inside = snapshot.parents[1]
    for target in (tmp_path / "outside", other, inside / "blob", inside / "blobs" / "folder" / "0"):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(whole)
        point(snapshot / name, target)
        with pytest.raises(BundleCorrupt, match=r"symbolic link.*cp -rL"):
            open_bundle(snapshot)
    way_out = inside / "blobs" / "way-out"
    for target in (tmp_path / "outside", Path("/dev/zero"), inside / "blobs" / "folder"):
        way_out.symlink_to(target)
        point(snapshot / name, way_out)
        with pytest.raises(BundleCorrupt, match="symbolic link"):
            open_bundle(snapshot)
        way_out.unlink()


def test_a_folder_that_is_a_link_is_refused(snapshot):
    blobs = snapshot.parents[1] / "blobs"
    (snapshot / "tokenizer").rename(blobs / "tokenizer")
    (snapshot / "tokenizer").symlink_to(blobs / "tokenizer")
    with pytest.raises(BundleCorrupt, match="symbolic link"):
        open_bundle(snapshot)


def test_the_same_links_elsewhere_are_refused(snapshot, tmp_path):
    """Only `models--*/snapshots/*` is the hub's cache."""
    for place in (tmp_path / "demo" / "snapshots", tmp_path / "models--me--demo" / "copies"):
        shutil.copytree(snapshot.parents[1] / "blobs", place.parent / "blobs")
        shutil.copytree(snapshot, place / "a", symlinks=True)
        with pytest.raises(BundleCorrupt, match="symbolic link"):
            open_bundle(place / "a")


def test_blobs_that_are_gone_or_changed_are_found(snapshot):
    open_bundle(snapshot)
    link = snapshot / TOKENIZER
    blob, other = link.resolve(), link.resolve().with_name("other")
    other.write_bytes(blob.read_bytes().replace(b"true", b"TRUE"))
    point(link, other)
    with pytest.raises(BundleCorrupt, match="has changed"):
        open_bundle(snapshot)
    other.unlink()
    with pytest.raises(BundleCorrupt, match="a file is missing"):
        open_bundle(snapshot)


def test_nothing_is_added_to_the_cache_but_to_a_copy(snapshot):
    before = sorted(snapshot.parents[1].rglob("*"))
    with pytest.raises(BundleError, match="takes no additions") as caught:
        Staging(snapshot)
    assert sorted(snapshot.parents[1].rglob("*")) == before
    command = shlex.split(str(caught.value).partition("the copy: ")[2])
    copy = snapshot.parents[2] / "copy"
    subprocess.run([str(copy) if word == "DIRECTORY" else word for word in command], check=True)
    with Staging(copy) as staging:
        assert staging.base.manifest == open_bundle(snapshot).manifest
