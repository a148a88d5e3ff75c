"""Bundles: what a bundle is on disk, opening and verifying one.

    bundle.json               the root pointer, {"manifest": "manifest-<digest>.json"}
    manifest-<digest>.json    the manifest, named by the SHA-256 of its own bytes; it lists every file below
    graphs/, tokenizer/ ...   each listed with its size and SHA-256

Whoever adds to a bundle holds the lock beside it, writes new files, then the new manifest, replaces the pointer in one
atomic rename, and sweeps what the new manifest does not list; each step is on the disk before the next one begins.
Killed between any two, the bundle is the old one or the new one, whole. Files that the manifest does not list are
ignored here, and a listed path never gets another content: so a reader needs no lock. One that comes across a publish
may find files of the manifest before swept; it reads the pointer again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

from allrounder.consistency import check_manifest
from allrounder.engines.bundle.stamps import verify_once
from allrounder.errors import BundleCorrupt, BundleError
from allrounder.hashing import read_small
from allrounder.manifest import Manifest, check_schema, decode
from allrounder.progress import Progress, silent

__all__ = ["POINTER", "OpenBundle", "digest_of", "manifest_name", "open_bundle", "pointer_to", "read_pointer"]

POINTER = "bundle.json"
_ATTEMPTS = 5  # more publishes than this during one opening are not an accident
_AGAIN = "copy or build the bundle again"


class OpenBundle(NamedTuple):
    """A verified bundle: its directory (links resolved), its manifest, and the manifest's digest."""

    path: Path
    manifest: Manifest
    digest: str


class _Pointer(Struct, frozen=True, forbid_unknown_fields=True):
    manifest: Annotated[str, Meta(pattern=r"^manifest-[0-9a-f]{64}\.json\Z")]


def open_bundle(path: str | Path, *, progress: Progress = silent, again: bool = False) -> OpenBundle:
    """Opens a bundle and verifies it.

    The manifest's digest, and the names, kinds and sizes of all files are checked each time. Every byte is hashed the
    first time this user meets the files on this machine; a stamp in the user's cache then lets unchanged ones open at
    once. Without a writable cache they are hashed each time (logged).

    Args:
        path: The bundle's directory; it may itself be reached through a symbolic link, and be a snapshot in the hub's
            cache, whose files are links into the cache's own blobs.
        progress: Gets the MiB that are hashed.
        again: Hash every byte, whatever was hashed before.

    Raises:
        BundleFromFuture: Its schema is newer than this program; beats every other complaint.
        BundleCorrupt: A missing, changed or unsafe file, or a manifest that cannot be read.
        BundleError: There is no such directory, or it cannot be read.
    """
    root, left = _resolved(Path(path)), _ATTEMPTS
    try:
        while True:
            digest, left = _pointed(root), left - 1
            try:
                return _open(root, digest, progress, again=again)
            except (BundleCorrupt, FileNotFoundError):
                if not left or read_pointer(root) == digest:
                    raise
    except OSError as error:
        raise BundleError("the bundle cannot be read", where=root, got=error) from error


def digest_of(data: bytes) -> str:
    """Returns the 64 lower-case hex digits of ``data``'s SHA-256."""
    return hashlib.sha256(data).hexdigest()


def manifest_name(digest: str) -> str:
    """Returns the name of the manifest that has this digest."""
    return f"manifest-{digest}.json"


def pointer_to(digest: str) -> bytes:
    """Returns the content of `POINTER` where the manifest has this digest."""
    return msgspec.json.format(msgspec.json.encode(_Pointer(manifest_name(digest))), indent=0) + b"\n"


def read_pointer(root: Path) -> str | None:
    """Returns the digest of the manifest that a directory's root pointer names, or None where there is no pointer.

    Raises:
        BundleCorrupt: It is not one.
        OSError: It cannot be read.
    """
    data = read_small(root, POINTER)
    if data is None:
        return None
    try:
        name = msgspec.json.decode(data, type=_Pointer).manifest
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleCorrupt(
            "the root pointer is malformed",
            where=root / POINTER,
            got=error,
            wanted='{"manifest": "manifest-<64 lower-case hex digits>.json"}',
            remedy=_AGAIN,
        ) from error
    return name.removeprefix("manifest-").removesuffix(".json")


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links that go round in a circle
        raise BundleError("the bundle cannot be read", where=path, got=error) from error


def _pointed(root: Path) -> str:
    """Returns the digest of the current manifest, or says what is there instead of a bundle."""
    digest = read_pointer(root)
    if digest is not None:
        return digest
    remedy = "give the directory that `allrounder build` wrote"
    if root.is_dir():
        raise BundleCorrupt("this is not a bundle: it has no bundle.json", where=root / POINTER, remedy=remedy)
    what = "a bundle is a directory" if root.exists() else "there is no such directory"
    raise BundleError(what, where=root, remedy=remedy)


def _open(root: Path, digest: str, progress: Progress, *, again: bool) -> OpenBundle:
    name = manifest_name(digest)
    data = read_small(root, name)
    if data is None:
        raise BundleCorrupt("the manifest is missing", where=root / name, remedy=_AGAIN)
    check_schema(data, where=root / name)
    if (found := digest_of(data)) != digest:
        raise BundleCorrupt(
            "the manifest has changed",
            where=root / name,
            got=f"sha256 {found}",
            wanted=f"sha256 {digest}",
            remedy=_AGAIN,
        )
    manifest = decode(data, Manifest, where=root / name)
    check_manifest(manifest, where=root / name)
    verify_once(root, manifest.files, progress, again=again)
    return OpenBundle(root, manifest, digest)
