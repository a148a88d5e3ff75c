"""Opening a bundle: whatever is wrong with it is refused, by the documented error and with a message that helps."""

import hashlib
import json
import os
import socket

import pytest

from allrounder.bundle import DIGEST, JOURNAL, MANIFEST, Journal, open_bundle, read_journal
from allrounder.errors import BundleCorrupt, BundleError, BundleFromFuture


def files_of(bundle):
    return sorted(str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file())


def rewrite(bundle, change):
    """Changes the manifest and makes its digest fit."""
    plain = json.loads((bundle / MANIFEST).read_bytes())
    change(plain)
    data = json.dumps(plain).encode()
    (bundle / MANIFEST).write_bytes(data)
    (bundle / DIGEST).write_text(hashlib.sha256(data).hexdigest())


def rename_listed(bundle, old, new):
    def change(plain):
        plain["files"][new] = plain["files"].pop(old)

    rewrite(bundle, change)


def a_graph(bundle):
    return next(path for path in files_of(bundle) if path.startswith("graphs/prefill"))


def test_a_good_bundle(bundle):
    opened = open_bundle(bundle)
    assert opened.path == bundle
    assert [entry.version for entry in opened.manifest.entries] == ["full", "par-lite", "par-nano"]
    assert opened.digest == hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
    assert (bundle / DIGEST).read_text() == f"{opened.digest}\n"


def test_it_may_be_reached_by_a_link_and_by_a_relative_path(bundle, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(bundle)
    assert open_bundle(tmp_path / "link").path == bundle
    monkeypatch.chdir(bundle.parent)
    assert open_bundle("demo").path == bundle


def test_a_changed_byte_in_any_file(bundle):
    for name in files_of(bundle):
        path = bundle / name
        whole = path.read_bytes()
        for position in {0, len(whole) // 2, len(whole) - 1}:
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
            if name == DIGEST and position == len(whole) - 1:
                path.write_bytes(whole + b"x")  # a final newline more or less is no change of the digest
            with pytest.raises((BundleCorrupt, BundleFromFuture)) as caught:
                open_bundle(bundle)
            assert name in str(caught.value) or name == DIGEST
            path.write_bytes(whole)
    open_bundle(bundle)


def test_any_truncated_or_prolonged_file(bundle):
    for name in files_of(bundle):
        path = bundle / name
        whole = path.read_bytes()
        for data in (whole[:-2], b"", whole + b"xy"):
            path.write_bytes(data)
            with pytest.raises(BundleCorrupt):
                open_bundle(bundle)
        path.write_bytes(whole)
    open_bundle(bundle)


def test_any_missing_file(bundle):
    for name in files_of(bundle):
        (bundle / name).rename(bundle.parent / "away")
        with pytest.raises(BundleCorrupt, match=r"missing|no manifest") as caught:
            open_bundle(bundle)
        assert name in str(caught.value)
        (bundle.parent / "away").rename(bundle / name)
    open_bundle(bundle)


@pytest.mark.parametrize("name", ["extra.txt", "graphs/extra.onnx", "graphs/weights/.hidden", "new/folder/x", "\nodd"])
def test_an_unlisted_file(bundle, name):
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_bytes(b"")
    with pytest.raises(BundleCorrupt, match="does not list") as caught:
        open_bundle(bundle)
    assert ascii(name)[1:-1] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_empty_folders_are_no_files(bundle):
    (bundle / "empty").mkdir()
    open_bundle(bundle)


@pytest.mark.parametrize("name", [MANIFEST, DIGEST, "graph", "tokenizer"])
def test_a_link_in_place_of_a_file_or_folder(bundle, name):
    path = bundle / (a_graph(bundle) if name == "graph" else name)
    path.rename(bundle.parent / "elsewhere")
    path.symlink_to(bundle.parent / "elsewhere")
    with pytest.raises(BundleCorrupt, match="symbolic link"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", [MANIFEST, DIGEST, JOURNAL])
def test_a_special_file_in_place_of_a_small_one_is_neither_awaited_nor_read_for_ever(bundle, name):
    (bundle / name).unlink(missing_ok=True)
    os.mkfifo(bundle / name)
    with pytest.raises(BundleCorrupt, match="special file"):
        open_bundle(bundle)
    (bundle / name).unlink()
    (bundle / name).symlink_to("/dev/zero")
    with pytest.raises(BundleCorrupt, match="special file"):
        open_bundle(bundle)


def test_a_link_beside_the_files(bundle):
    (bundle / "link").symlink_to("/nowhere")
    with pytest.raises(BundleCorrupt, match="symbolic link"):
        open_bundle(bundle)


def test_special_files(bundle):
    os.mkfifo(bundle / "fifo")
    with pytest.raises(BundleCorrupt, match="special file"):
        open_bundle(bundle)
    (bundle / "fifo").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        handle = os.open(bundle, os.O_RDONLY)  # the path itself may be too long for a socket
        server.bind(f"/proc/self/fd/{handle}/socket")
        os.close(handle)
        with pytest.raises(BundleCorrupt, match="special file"):
            open_bundle(bundle)


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("../outside.bin", "leaves the bundle"),
        ("graphs/../../outside.bin", "leaves the bundle"),
        ("graphs/../tokenizer/tokenizer.json", "leaves the bundle"),
        ("..", "leaves the bundle"),
        ("/etc/passwd", "absolute"),
        ("\\\\server\\share", "absolute"),
        ("C:/windows", "absolute"),
        ("graphs\\..\\x", "leaves the bundle"),
        ("graphs\\x", "not safe"),
        ("./graphs/x", "not safe"),
        ("graphs//x", "not safe"),
        ("graphs/", "not safe"),
        ("", "not safe"),
        (".", "not safe"),
        (".hidden", "not safe"),
        ("a\x00b", "not safe"),
        ("a\nb", "not safe"),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "not safe"),
        ("x" * 300, "not safe"),
        ("/".join(["x" * 100] * 12), "not safe"),
    ],
    ids=lambda value: ascii(value[:30]),
)
def test_a_path_that_is_not_one_of_the_bundle(bundle, path, complaint):
    (bundle.parent / "outside.bin").write_bytes((bundle / a_graph(bundle)).read_bytes())
    rename_listed(bundle, a_graph(bundle), path)
    rewrite(bundle, lambda plain: plain["entries"].pop(2))
    rewrite(bundle, lambda plain: [entry["graphs"].update(prefill=path) for entry in plain["entries"]])
    with pytest.raises(BundleCorrupt, match=complaint) as caught:
        open_bundle(bundle)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [MANIFEST, DIGEST, JOURNAL])
def test_a_manifest_that_lists_itself(bundle, name):
    rewrite(bundle, lambda plain: plain["files"].update({name: {"sha256": "0" * 64, "bytes": 1}}))
    with pytest.raises(BundleCorrupt, match="lists itself"):
        open_bundle(bundle)


def test_from_the_future_beats_a_wrong_digest_and_everything_else(bundle):
    rewrite(bundle, lambda plain: plain.update(schema=7, new="key"))
    (bundle / DIGEST).write_text("nonsense")
    (bundle / a_graph(bundle)).unlink()
    with pytest.raises(BundleFromFuture, match=r"schema 7.*update allrounder"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda plain: plain.update(unknown=1), "unknown field"),
        (lambda plain: plain["entries"].append(plain["entries"][0]), "twice"),
        (lambda plain: plain.update(entries=[]), "no entry"),
        (lambda plain: plain["model"].update(hidden=float("nan")), "not JSON"),
        (lambda plain: plain["model"].update(hidden=10**30), "malformed"),
        (lambda plain: plain["files"]["tokenizer/tokenizer.json"].update(bytes=2**62), "truncated"),
        (lambda plain: plain["files"]["tokenizer/tokenizer.json"].update(bytes=-1), "malformed"),
        (lambda plain: plain["entries"][1].update(tokens=10**6), "impossible budget"),
    ],
)
def test_a_manifest_that_is_wrong_though_its_digest_is_right(bundle, change, complaint):
    rewrite(bundle, change)
    with pytest.raises(BundleCorrupt, match=complaint):
        open_bundle(bundle)


@pytest.mark.parametrize("digest", ["", "0" * 64, "0" * 63, "G" * 64, "\xff", "a" * 10_000])
def test_a_wrong_digest(bundle, digest):
    (bundle / DIGEST).write_bytes(digest.encode("latin-1"))
    with pytest.raises(BundleCorrupt, match=r"digest is not one|manifest has changed") as caught:
        open_bundle(bundle)
    assert len(str(caught.value)) < 1000


def test_upper_case_is_not_the_documented_digest(bundle):
    (bundle / DIGEST).write_text((bundle / DIGEST).read_text().upper())
    with pytest.raises(BundleCorrupt, match="lower-case"):
        open_bundle(bundle)


@pytest.mark.parametrize("content", [b"", b"not JSON", b"\x00" * 100, b"[" * 50_000])
def test_a_manifest_that_is_not_json(bundle, content):
    (bundle / MANIFEST).write_bytes(content)
    (bundle / DIGEST).write_text(hashlib.sha256(content).hexdigest())
    with pytest.raises(BundleCorrupt, match=r"not JSON|malformed"):
        open_bundle(bundle)


def test_no_directory_a_file_and_an_empty_directory(tmp_path):
    with pytest.raises(BundleError, match="no such directory"):
        open_bundle(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BundleError, match="a bundle is a directory"):
        open_bundle(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleCorrupt, match="no manifest"):
        open_bundle(tmp_path / "empty")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(tmp_path / "loop")


def test_a_folder_in_place_of_a_small_file(bundle):
    for name in (MANIFEST, DIGEST):
        whole = (bundle / name).read_bytes()
        (bundle / name).unlink()
        (bundle / name).mkdir()
        with pytest.raises(BundleCorrupt):
            open_bundle(bundle)
        (bundle / name).rmdir()
        (bundle / name).write_bytes(whole)


def test_a_folder_in_place_of_a_graph(bundle):
    path = bundle / a_graph(bundle)
    path.unlink()
    path.mkdir()
    with pytest.raises(BundleCorrupt, match="missing"):
        open_bundle(bundle)


def test_the_journal_of_an_interrupted_publish(bundle):
    """Before the manifest is replaced, the new files are unlisted and the journal names them."""
    digest = open_bundle(bundle).digest
    (bundle / "graphs/new.onnx").write_bytes(b"new")
    (bundle / JOURNAL).write_bytes(Journal("0" * 64, ("graphs/new.onnx",)).encode())
    assert open_bundle(bundle).digest == digest
    assert read_journal(bundle) == Journal("0" * 64, ("graphs/new.onnx",))
    (bundle / "graphs/other.onnx").write_bytes(b"other")
    with pytest.raises(BundleCorrupt, match="does not list"):
        open_bundle(bundle)


def test_the_manifest_may_already_be_the_journals(bundle):
    """After the manifest is replaced, its digest stands in the journal's first line alone."""
    old = (bundle / DIGEST).read_bytes()
    rewrite(bundle, lambda plain: plain.update(producer="next"))
    new = (bundle / DIGEST).read_text()
    (bundle / DIGEST).write_bytes(old)
    with pytest.raises(BundleCorrupt, match="manifest has changed"):
        open_bundle(bundle)
    (bundle / JOURNAL).write_bytes(Journal(new, ()).encode())
    assert open_bundle(bundle).manifest.producer == "next"


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"0" * 64, b"0" * 64 + b"\n../x\n", b"0" * 64 + b"\nx", b"\xff\n", b"\n" + b"0" * 64]
)
def test_a_damaged_journal(bundle, content):
    (bundle / JOURNAL).write_bytes(content)
    with pytest.raises(BundleCorrupt, match=r"journal|leaves the bundle"):
        open_bundle(bundle)


def test_hashing_tells_its_progress(bundle):
    told = []
    open_bundle(bundle, progress=lambda *step: told.append(step))
    tasks, done, totals = zip(*told, strict=True)
    assert set(tasks) == {"verifying (MiB)"}
    assert len(set(totals)) == 1
    assert done[-1] == totals[0]
    assert list(done) == sorted(done)
