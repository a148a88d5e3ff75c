"""Opening a bundle: whatever is wrong with it is refused, by the documented error and with a message that helps."""

import hashlib
import itertools
import json
import os
import socket

import pytest

from allrounder.engines.bundle import reader as bundles
from allrounder.engines.bundle.reader import POINTER, manifest_name, open_bundle, read_pointer
from allrounder.engines.bundle.staging import point_to
from allrounder.errors import BundleCorrupt, BundleError, BundleFromFuture


def files_of(bundle):
    return sorted(str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file())


def manifest_of(bundle):
    return bundle / manifest_name(read_pointer(bundle))


def rewrite(bundle, change):
    """Changes the manifest, and its name and the pointer with it."""
    file = manifest_of(bundle)
    plain = json.loads(file.read_bytes())
    change(plain)
    file.unlink()
    point_to(bundle, json.dumps(plain).encode())


def rename_listed(bundle, old, new):
    def change(plain):
        plain["files"][new] = plain["files"].pop(old)

    rewrite(bundle, change)


def a_graph(bundle):
    return next(path for path in files_of(bundle) if path.startswith("graphs/decoder"))


def test_a_good_bundle(bundle):
    opened = open_bundle(bundle)
    assert opened.path == bundle
    assert [entry.version for entry in opened.manifest.entries] == ["full", "par-lite", "par-nano"]
    assert opened.digest == hashlib.sha256(manifest_of(bundle).read_bytes()).hexdigest()
    assert (bundle / POINTER).read_text() == f'{{"manifest": "manifest-{opened.digest}.json"}}\n'


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
            with pytest.raises((BundleCorrupt, BundleFromFuture)) as caught:
                open_bundle(bundle)
            assert name in str(caught.value) or name == POINTER
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
        with pytest.raises(BundleCorrupt, match=r"missing|no bundle\.json") as caught:
            open_bundle(bundle)
        assert name in str(caught.value)
        (bundle.parent / "away").rename(bundle / name)
    open_bundle(bundle)


@pytest.mark.parametrize("name", ["extra.txt", "graphs/extra.onnx", "graphs/weights/.hidden", "new/folder/x", "\nodd"])
def test_what_is_not_listed_is_nobodys_business(bundle, name):
    before = open_bundle(bundle)
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_bytes(b"")
    (bundle / "link").symlink_to("/nowhere")
    os.mkfifo(bundle / "fifo")
    assert open_bundle(bundle) == before


def test_empty_folders_are_no_files(bundle):
    (bundle / "empty").mkdir()
    open_bundle(bundle)


@pytest.mark.parametrize("name", [POINTER, "manifest", "graph", "tokenizer", "graphs/weights"])
def test_a_link_in_place_of_a_file_or_folder(bundle, name):
    path = {"manifest": manifest_of(bundle), "graph": bundle / a_graph(bundle)}.get(name, bundle / name)
    path.rename(bundle.parent / "elsewhere")
    path.symlink_to(bundle.parent / "elsewhere")
    with pytest.raises(BundleCorrupt, match="symbolic link"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", [POINTER, "manifest", "graph"])
def test_a_special_file_in_place_of_one_is_neither_awaited_nor_read_for_ever(bundle, name):
    path = {"manifest": manifest_of(bundle), "graph": bundle / a_graph(bundle)}.get(name, bundle / name)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BundleCorrupt, match="special file"):
        open_bundle(bundle)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(BundleCorrupt, match="symbolic link"):
        open_bundle(bundle)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        handle = os.open(path.parent, os.O_RDONLY)  # the path itself may be too long for a socket
        server.bind(f"/proc/self/fd/{handle}/{path.name[:40]}")
        os.close(handle)
        path.with_name(path.name[:40]).rename(path)
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
    rewrite(bundle, lambda plain: [entry["graphs"].update(decoder=path) for entry in plain["entries"]])
    with pytest.raises(BundleCorrupt, match=complaint) as caught:
        open_bundle(bundle)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_from_the_future_beats_a_wrong_digest_and_everything_else(bundle):
    rewrite(bundle, lambda plain: plain.update(schema=7, new="key"))
    with manifest_of(bundle).open("ab") as file:
        file.write(b" ")
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
        (lambda plain: plain["entries"][1]["pruning"].update(keep="3/2"), "impossible budget"),
    ],
)
def test_a_manifest_that_is_wrong_though_its_digest_is_right(bundle, change, complaint):
    rewrite(bundle, change)
    with pytest.raises(BundleCorrupt, match=complaint):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"not JSON", b"\xff", b"[" * 50_000, b"{}", b"[]", b"null", b'{"manifest": 1}'),
        *(b'{"manifest": "%s"}' % name for name in (b"", b"manifest.json", b"../manifest-%s.json" % (b"0" * 64))),
        *(b'{"manifest": "manifest-%s.json"}' % digest for digest in (b"0" * 63, b"A" * 64, b"G" * 64, b"0" * 10_000)),
        b'{"manifest": "manifest-%s.json", "more": 1}' % (b"0" * 64),
        b'{"manifest": "manifest-%s.json\\n"}' % (b"0" * 64),
    ],
    ids=lambda content: ascii(content[:40]),
)
def test_a_root_pointer_that_is_none(bundle, content):
    (bundle / POINTER).write_bytes(content)
    with pytest.raises(BundleCorrupt, match="root pointer is malformed") as caught:
        open_bundle(bundle)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("content", [b"", b"not JSON", b"\x00" * 100, b"[" * 50_000])
def test_a_manifest_that_is_not_json(bundle, content):
    point_to(bundle, content)
    with pytest.raises(BundleCorrupt, match=r"not JSON|malformed"):
        open_bundle(bundle)


def test_no_directory_a_file_and_an_empty_directory(tmp_path):
    with pytest.raises(BundleError, match="no such directory"):
        open_bundle(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BundleError, match="a bundle is a directory"):
        open_bundle(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleCorrupt, match=r"no bundle\.json"):
        open_bundle(tmp_path / "empty")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(tmp_path / "loop")


def test_a_folder_in_place_of_a_small_file(bundle):
    for path in (bundle / POINTER, manifest_of(bundle)):
        whole = path.read_bytes()
        path.unlink()
        path.mkdir()
        with pytest.raises(BundleCorrupt):
            open_bundle(bundle)
        path.rmdir()
        path.write_bytes(whole)


def test_a_folder_in_place_of_a_graph(bundle):
    path = bundle / a_graph(bundle)
    path.unlink()
    path.mkdir()
    with pytest.raises(BundleCorrupt, match="missing"):
        open_bundle(bundle)


def test_a_reader_that_meets_a_publish_reads_the_pointer_again(bundle, monkeypatch):
    """The manifest that it was pointed to is swept, or a file of it, before it comes to read it."""
    first = open_bundle(bundle).digest
    point_to(bundle, (bundle / manifest_name(first)).read_bytes().replace(b'"producer": "', b'"producer": "next '))
    second = read_pointer(bundle)
    for gone in (bundle / manifest_name(first), bundle / a_graph(bundle)):
        answers, whole = iter([first]), gone.read_bytes()
        gone.unlink()

        def pointed(root, answers=answers, gone=gone, whole=whole):
            if (answer := next(answers, second)) == second:
                gone.write_bytes(whole)
            return answer

        monkeypatch.setattr(bundles, "read_pointer", pointed)
        assert open_bundle(bundle).digest == second
        monkeypatch.undo()


def test_a_reader_gives_up_where_the_pointer_never_stays(bundle, monkeypatch):
    digests = (f"{number:064x}" for number in itertools.count())
    monkeypatch.setattr(bundles, "read_pointer", lambda _: next(digests))
    with pytest.raises(BundleCorrupt, match="manifest is missing"):
        open_bundle(bundle)
    assert int(next(digests), 16) < 20


def test_hashing_tells_its_progress(bundle):
    told = []
    open_bundle(bundle, progress=lambda *step: told.append(step))
    tasks, done, totals = zip(*told, strict=True)
    assert set(tasks) == {"verifying (MiB)"}
    assert len(set(totals)) == 1
    assert done[-1] == totals[0]
    assert list(done) == sorted(done)
