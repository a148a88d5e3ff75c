"""Staging and publishing: new bundles, additions, replacements, refusals."""

import errno
import os
import shutil

import msgspec
import pytest
from staged import FIDELITY, assert_tidy, build, on_disk, versions

from allrounder.engines.backends import BuildOptions, backend
from allrounder.engines.bundle import staging as staging_module
from allrounder.engines.bundle.publish import Staging, publish
from allrounder.engines.bundle.reader import open_bundle
from allrounder.errors import BundleCorrupt, BundleError, BundleMismatch, GraphInvalid, InputInvalid
from allrounder.hashing import file_record
from allrounder.manifest import FileRecord


def test_a_new_bundle(freeze, place):
    published = build(place, freeze("full", "par-lite"))
    assert open_bundle(place) == published
    assert versions(published) == ["full", "par-lite"]
    assert published.manifest.producer.startswith("allrounder ")
    assert_tidy(place)


def test_nothing_is_at_the_place_before_it_is_published(freeze, place):
    with Staging(place) as staging:
        entries = backend("onnxruntime").build(freeze("par-lite"), staging, BuildOptions())
        assert not place.exists()
        assert open_bundle(staging.path).manifest.entries == entries
    assert list(place.parent.iterdir()) == []


def test_an_empty_directory_is_a_place(freeze, place):
    place.mkdir(parents=True)
    build(place, freeze("par-lite"))
    assert_tidy(place)


def test_a_link_to_an_empty_place_is_followed(freeze, place, tmp_path):
    place.parent.mkdir()
    place.symlink_to(tmp_path / "real")
    assert build(place, freeze("par-lite")).path == tmp_path / "real"
    assert versions(open_bundle(place)) == ["par-lite"]


def test_files_are_shared_with_what_was_frozen_and_with_the_old_bundle(freeze, place):
    frozen = freeze("par-lite")
    build(place, frozen)
    weights = next((place / "graphs/weights").iterdir())
    assert weights.samefile(frozen / weights.relative_to(place))
    with Staging(place) as staging:
        assert weights.samefile(staging.path / weights.relative_to(place))


def test_where_links_fail_files_are_copied(freeze, place, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(staging_module.os, "link", refuse)
    frozen = freeze("par-lite")
    build(place, frozen)
    build(place, freeze("par-nano"))
    weights = next((place / "graphs/weights").iterdir())
    assert not weights.samefile(frozen / weights.relative_to(place))
    assert_tidy(place)


def test_a_copy_that_differs_is_refused(freeze, place, monkeypatch):
    def copy_badly(source, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes() + b"x")
        return False

    monkeypatch.setattr(staging_module, "_link", copy_badly)
    with pytest.raises(BundleCorrupt, match="while it was copied"):
        build(place, freeze("par-lite"))


def test_adding_a_version_keeps_the_others_and_shares_their_files(freeze, place):
    first = build(place, freeze("full", "par-lite"))
    before = {path: (place / path).stat().st_ino for path in first.manifest.files}
    published = build(place, freeze("par-nano"))
    assert versions(published) == ["full", "par-lite", "par-nano"]
    assert {path: (place / path).stat().st_ino for path in before} == before
    assert len(set(published.manifest.files) - set(before)) == 1  # its decoder
    assert_tidy(place)


def test_the_same_again_is_reused_with_its_figures(freeze, place):
    frozen = freeze("par-lite")
    with Staging(place) as staging:
        (entry,) = backend("onnxruntime").build(frozen, staging, BuildOptions())
        staging.set_figures({entry.key: (FIDELITY, None)})
        first = publish(staging)
    with Staging(place) as staging:
        (again,) = backend("onnxruntime").build(frozen, staging, BuildOptions())
        assert staging.reused == (entry.key,)
        assert again.fidelity == FIDELITY
        assert publish(staging) == first
    assert_tidy(place)


def test_another_wish_for_the_native_op_is_another_entry_of_the_same_key(freeze, place):
    frozen = freeze("par-lite")
    with Staging(place) as staging:
        (entry,) = backend("onnxruntime").build(frozen, staging, BuildOptions())
        staging.set_figures({entry.key: (FIDELITY, None)})
        first = publish(staging)
    with Staging(place) as staging:
        (wishing,) = backend("onnxruntime").build(frozen, staging, BuildOptions(native_op=True))
        assert (staging.reused, wishing.fidelity) == ((), None)  # measured without the op: not its figures
        published = publish(staging)
    assert published.manifest.entries == (wishing,)
    assert (wishing.key, wishing.graphs) == (entry.key, entry.graphs)
    assert published.digest != first.digest  # what is kept per bundle, such as local latencies, is kept anew
    assert_tidy(place)


def test_force_builds_again_and_forgets_figures(freeze, place):
    frozen = freeze("par-lite")
    with Staging(place) as staging:
        (entry,) = backend("onnxruntime").build(frozen, staging, BuildOptions())
        staging.set_figures({entry.key: (FIDELITY, None)})
        publish(staging)
    published = build(place, frozen, force=True)
    assert published.manifest.entries == (entry,)


def test_another_graph_of_the_same_key_replaces_it_and_its_files(freeze, place):
    first = build(place, freeze("par-lite", "par-nano"))
    second = build(place, freeze("par-lite", salt="other"))
    assert versions(second) == ["par-lite", "par-nano"]
    gone = set(first.manifest.files) - set(second.manifest.files)
    assert gone == {first.manifest.entries[0].graphs.decoder}
    assert_tidy(place)


def test_keys_differ_by_policy_precision_and_version(freeze, place):
    build(place, freeze("par-lite"))
    build(place, freeze("par-lite", policy="static"))
    build(place, freeze("par-lite", precision="fp16"))
    assert len({entry.key for entry in open_bundle(place).manifest.entries}) == 3
    assert_tidy(place)


def test_full_alone_carries_no_router_weights(freeze, place):
    build(place, freeze("full"))
    assert not [path for path in on_disk(place) if "router" in path]
    build(place, freeze("par-lite"))
    assert [path for path in on_disk(place) if "weights/router" in path]
    assert_tidy(place)


def test_a_router_may_join_a_bundle_without_one_and_stays(freeze, place):
    build(place, freeze("full", router=None))
    assert open_bundle(place).manifest.model.router is None
    router = build(place, freeze("par-lite")).manifest.model.router
    assert router is not None
    assert build(place, freeze("full", router=None, salt="again")).manifest.model.router == router


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        ({"vlm": "another"}, "another model"),
        ({"router": "another"}, "another router"),
        ({"chat": {"template": "{{ 1 }}"}}, "another chat template"),
        ({"chat": {"special_tokens": {"bos_token": "<s>"}}}, "another chat template"),
        ({"limits": {"new_tokens": 9}}, "another limits"),
        ({"limits": {"images": 3}}, "another limits"),
        ({"hidden": 5}, "same model differently"),
        ({"image_token_id": 4}, "same model differently"),
        ({"max_positions": 255}, "same model differently"),
    ],
    ids=str,
)
def test_foreigners_are_refused_and_nothing_changes(freeze, place, other, complaint):
    before = build(place, freeze("full", "par-lite"))
    with pytest.raises(BundleMismatch, match=complaint) as caught:
        build(place, freeze("par-nano", **other))
    assert "another directory" in str(caught.value)
    assert open_bundle(place) == before
    assert_tidy(place)


def test_the_name_of_the_same_model_may_differ(freeze, place):
    build(place, freeze("full"))
    assert build(place, freeze("par-lite", name="renamed")).manifest.model.name == "fake"


def test_two_files_of_one_name_are_refused(freeze, place):
    before = build(place, freeze("full"))
    frozen = freeze("par-lite")
    tokenizer = frozen / "tokenizer/tokenizer.json"
    old = file_record(tokenizer)
    tokenizer.write_bytes(tokenizer.read_bytes().replace(b"true", b"TRUE"))
    data = (frozen / "frozen.json").read_bytes().replace(old.sha256.encode(), file_record(tokenizer).sha256.encode())
    (frozen / "frozen.json").write_bytes(data)
    with pytest.raises(BundleMismatch, match="another file of that name"):
        build(place, frozen)
    assert open_bundle(place) == before


def test_a_place_that_is_taken(freeze, place):
    place.mkdir(parents=True)
    (place / "precious.txt").write_text("mine")
    with pytest.raises(BundleError, match="not a bundle"):
        Staging(place)
    shutil.rmtree(place)
    place.write_text("a file")
    with pytest.raises(BundleError, match="not a bundle"):
        Staging(place)
    assert list(place.parent.iterdir()) == [place]


def test_a_damaged_bundle_takes_no_additions(freeze, place):
    build(place, freeze("par-lite"))
    next((place / "graphs/weights").iterdir()).write_bytes(b"")
    with pytest.raises(BundleCorrupt, match="truncated"):
        Staging(place)
    assert list(place.parent.iterdir()) == [place]


def test_a_place_where_nothing_can_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="cannot be written"):
        Staging(tmp_path / "file" / "demo")


def test_a_full_disk_at_any_write_leaves_the_old_bundle(freeze, place, monkeypatch):
    before = build(place, freeze("par-lite"))
    with Staging(place) as staging:
        backend("onnxruntime").build(freeze("par-nano"), staging, BuildOptions())

        def refuse(*_):
            raise OSError(errno.ENOSPC, "no space left")

        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(BundleError, match="no space left"):
            publish(staging)
        monkeypatch.undo()
    assert open_bundle(place) == before
    assert_tidy(place)


def test_an_empty_staging_has_nothing_to_publish(place):
    with Staging(place) as staging, pytest.raises(InputInvalid, match="nothing was built"):
        publish(staging)
    assert list(place.parent.iterdir()) == []


def test_figures_go_into_the_manifest_of_old_and_new_entries(freeze, place):
    build(place, freeze("par-lite"))
    with Staging(place) as staging:
        backend("onnxruntime").build(freeze("par-nano"), staging, BuildOptions())
        staging.set_figures({entry.key: (FIDELITY, None) for entry in staging.manifest.entries})
        assert [entry.fidelity for entry in open_bundle(staging.path).manifest.entries] == [FIDELITY, FIDELITY]
        with pytest.raises(InputInvalid, match="does not hold"):
            staging.set_figures({("none", "onnxruntime", "fp32", 2, "dynamic"): (None, None)})
        publish(staging)
    assert [entry.fidelity for entry in open_bundle(place).manifest.entries] == [FIDELITY, FIDELITY]
    assert_tidy(place)


def test_calibrating_again_needs_no_build(freeze, place):
    build(place, freeze("par-lite"))
    with Staging(place) as staging:
        (entry,) = staging.manifest.entries
        staging.set_figures({entry.key: (FIDELITY, None)})
        publish(staging)
    assert open_bundle(place).manifest.entries == (msgspec.structs.replace(entry, fidelity=FIDELITY),)
    assert_tidy(place)


def test_only_safe_paths_get_into_a_staging(freeze, place, tmp_path):
    with Staging(place) as staging:
        with pytest.raises(BundleCorrupt, match="leaves the bundle"), staging.new_file("../outside"):
            pass
        with pytest.raises(BundleCorrupt, match="absolute"):
            staging.place_file(tmp_path / "x", "/x", FileRecord(sha256="0" * 64, bytes=0))


def test_a_file_is_written_in_pieces_whole_or_not_at_all(place):
    def half(staging):
        with staging.new_file("folder/b") as write:
            write(b"half")
            raise ArithmeticError

    with Staging(place) as staging:
        with staging.new_file("folder/a") as write:
            assert [write(piece) for piece in (b"one", b"", b"two")] == [3, 0, 3]
        assert staging.files["folder/a"] == file_record(staging.path / "folder/a")
        assert (staging.path / "folder/a").read_bytes() == b"onetwo"
        with pytest.raises(ArithmeticError):
            half(staging)
        assert "folder/b" not in staging.files
        assert not (staging.path / "folder/b").exists()
        with pytest.raises(BundleError, match="exists"), staging.new_file("folder/a") as write:
            write(b"another")
        assert (staging.path / "folder/a").read_bytes() == b"onetwo"


def test_a_graph_whose_weights_are_not_there_is_refused(freeze, place):
    frozen = freeze("par-lite")
    with Staging(place) as staging:
        entries = backend("onnxruntime").build(frozen, staging, BuildOptions())
        del staging._files[next(path for path in staging.files if "weights/model" in path)]
        staging._references.clear()
        with pytest.raises(GraphInvalid, match="not listed"):
            staging.put(entries, force=True)
