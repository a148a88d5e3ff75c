"""Bundles: opening and verifying one, and the order of writes that makes a kill harmless.

What it is: `open_bundle`, which returns a manifest only if every byte of the bundle is what it says.
What it knows: `manifest.json`, `manifest.sha256` (the 64 lower-case hex digits of `manifest.json`), and the journal
of a publish. What it does not know: backends, graphs, and how the files came to be (`allrounder.engines.bundle`).

A bundle has two files that must change together, and files that come and go with them. Whoever adds to one
holds the lock beside it and does this; each step is one atomic rename or removal, and is on the disk (fsync of
file and directory) before the next one begins:

1. `manifest.sha256.next`, the journal: first line the digest of the next manifest, then one line for each file that
   the old or the new manifest does not list, that is, that comes or goes.
2. The new files, whose names no listed file has.
3. `manifest.json`. From here on the bundle is the new one.
4. `manifest.sha256`.
5. The files that no entry needs any more are removed, then the journal.

So the reader accepts a manifest whose digest is in `manifest.sha256` or in the first line of the journal, and, besides
the listed files, only the three above and the files that the journal names. Killed between any two steps, the
bundle opens, as the old one up to step 2 and as the new one from step 3 on; the next writer puts the rest in order.
A reader that comes across a running publish may see files of two states; it finds its three small files
changed, and starts again. A new bundle needs none of this: it is written beside its place and renamed.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from allrounder.consistency import check_manifest
from allrounder.errors import BundleCorrupt, BundleError, BundleFromFuture
from allrounder.hashing import FileStat, check_files, check_path, list_files, verify_files
from allrounder.manifest import BF16_SCHEMA, Manifest, check_schema, decode
from allrounder.progress import Progress, silent
from allrounder.stamps import read_stamp, write_stamp

__all__ = ["DIGEST", "JOURNAL", "MANIFEST", "Journal", "OpenBundle", "digest_of", "open_bundle", "read_journal"]

MANIFEST, DIGEST, JOURNAL = "manifest.json", "manifest.sha256", "manifest.sha256.next"
_ATTEMPTS = 5  # more publishes than this during one opening are not an accident


class OpenBundle(NamedTuple):
    """A verified bundle: its directory (links resolved), its manifest, and the manifest's digest."""

    path: Path
    manifest: Manifest
    digest: str


class Journal(NamedTuple):
    """A publish that has begun: the next manifest's digest, and the files that come or go."""

    digest: str
    files: tuple[str, ...]

    def encode(self) -> bytes:
        return "".join(f"{line}\n" for line in (self.digest, *self.files)).encode("ascii")


class _Heads(NamedTuple):
    """The content of the three files that say what a bundle is; None where there is none."""

    manifest: bytes | None
    digest: bytes | None
    journal: bytes | None


def open_bundle(path: str | Path, *, progress: Progress = silent) -> OpenBundle:
    """Opens a bundle and verifies it.

    Every file is hashed in full the first time this user meets it on this machine; a stamp in the user's cache then
    lets an unchanged bundle open at once. Without a writable cache it is hashed each time (logged).

    Args:
        path: The bundle's directory; it may itself be reached through a symbolic link.
        progress: Told the MiB that are hashed.

    Raises:
        BundleFromFuture: Its schema is newer than this program; beats every other complaint.
        BundleCorrupt: A missing, changed, unlisted or unsafe file, or a manifest that cannot be read.
        BundleError: There is no such directory, or it cannot be read.
    """
    root = _resolved(Path(path))
    try:
        heads = _read_heads(root)
        for _ in range(_ATTEMPTS - 1):
            try:
                return _open(root, heads, progress)
            except BundleFromFuture:
                raise
            except (BundleCorrupt, FileNotFoundError):
                before, heads = heads, _read_heads(root)
                if heads == before:
                    raise
        return _open(root, heads, progress)
    except OSError as error:
        raise BundleError("the bundle cannot be read", where=root, got=error) from error


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links that go round in a circle
        raise BundleError("the bundle cannot be read", where=path, got=error) from error


def digest_of(data: bytes) -> str:
    """Returns the 64 lower-case hex digits of ``data``'s SHA-256."""
    return hashlib.sha256(data).hexdigest()


def read_journal(root: Path) -> Journal | None:
    """Returns the journal of an interrupted publish, or None where there is none.

    Raises:
        BundleCorrupt: It is not a journal, or names an unsafe path.
    """
    return _parse_journal(root, _read(root / JOURNAL))


def _open(root: Path, heads: _Heads, progress: Progress) -> OpenBundle:
    data, journal = _accepted(root, heads)
    manifest = decode(data, Manifest, where=root / MANIFEST)
    check_manifest(manifest, where=root / MANIFEST)
    _verify(root, manifest, _listed(root, manifest, journal), progress)
    return OpenBundle(root, manifest, digest_of(data))


def _verify(root: Path, manifest: Manifest, found: dict[str, FileStat], progress: Progress) -> None:
    """Hashes the files that this user has not hashed in this state before."""
    wanted = {path: record.sha256 for path, record in manifest.files.items()}
    known = {path: digest for path, digest in read_stamp(root, found).items() if wanted.get(path) == digest}
    unknown = {path: record for path, record in manifest.files.items() if path not in known}
    if unknown:
        unchanged = verify_files(root, unknown, found, progress)
        write_stamp(root, {path: wanted[path] for path in known.keys() | unchanged}, found)


def _accepted(root: Path, heads: _Heads) -> tuple[bytes, Journal | None]:
    """Returns the manifest's bytes, which match a digest, and the journal."""
    if heads.manifest is None:
        raise BundleCorrupt(
            "this is not a bundle: it has no manifest",
            where=root / MANIFEST,
            remedy="give the directory that `allrounder build` wrote",
        )
    check_schema(heads.manifest, where=root / MANIFEST, newest=BF16_SCHEMA)
    if heads.digest is None:
        raise BundleCorrupt("the manifest's digest is missing", where=root / DIGEST, remedy=_AGAIN)
    if not re.fullmatch(rb"[0-9a-f]{64}\s?", heads.digest):
        raise BundleCorrupt(
            "the manifest's digest is not one",
            where=root / DIGEST,
            got=ascii(heads.digest[:100]),
            wanted="64 lower-case hex digits",
            remedy=_AGAIN,
        )
    journal = _parse_journal(root, heads.journal)
    accepted = [heads.digest.decode("ascii").strip(), *([journal.digest] if journal else [])]
    digest = digest_of(heads.manifest)
    if digest not in accepted:
        raise BundleCorrupt(
            "the manifest has changed",
            where=root / MANIFEST,
            got=f"sha256 {digest}",
            wanted=f"sha256 {' or '.join(accepted)}",
            remedy=_AGAIN,
        )
    return heads.manifest, journal


_AGAIN = "copy or build the bundle again"


def _listed(root: Path, manifest: Manifest, journal: Journal | None) -> dict[str, FileStat]:
    """Returns the state of the listed files, after refusing missing, misshapen and unlisted ones."""
    heads = {MANIFEST, DIGEST, JOURNAL}
    for path in manifest.files:
        check_path(path, where=root / MANIFEST)
        if path in heads:
            raise BundleCorrupt("the manifest lists itself", where=root / MANIFEST, got=path)
    found = list_files(root)
    check_files(root, manifest.files, found)
    unlisted = sorted(set(found) - set(manifest.files) - heads - set(journal.files if journal else ()))
    if unlisted:
        raise BundleCorrupt(
            "there are files that the manifest does not list",
            where=root,
            got=", ".join(ascii(path)[1:-1] for path in unlisted[:5]) + (" ..." if len(unlisted) > 5 else ""),
            remedy="move them out of the bundle",
        )
    return {path: found[path] for path in manifest.files}


def _read_heads(root: Path) -> _Heads:
    if not root.is_dir():
        raise BundleError(
            "there is no such directory" if not root.exists() else "a bundle is a directory",
            where=root,
            remedy="give the directory that `allrounder build` wrote",
        )
    return _Heads(_read(root / MANIFEST), _read(root / DIGEST), _read(root / JOURNAL))


def _read(path: Path) -> bytes | None:
    """Returns what a small file holds, or None where there is none; a pipe in its place is not waited for."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.read()
    except (FileNotFoundError, IsADirectoryError):
        return None
    raise BundleCorrupt("a special file stands where only regular files may", where=path, remedy=_AGAIN)


def _parse_journal(root: Path, data: bytes | None) -> Journal | None:
    if data is None:
        return None
    digest, *files = data.decode("ascii", errors="replace").split("\n")
    if not re.fullmatch(r"[0-9a-f]{64}", digest) or not files or files.pop():
        raise BundleCorrupt("the journal of a publish is damaged", where=root / JOURNAL, remedy=_AGAIN)
    for path in files:
        check_path(path, where=root / JOURNAL)
    return Journal(digest, tuple(files))
