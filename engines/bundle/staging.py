"""Staging: a whole candidate bundle in a temporary folder beside its place.

The folder begins as the bundle that is there (by hard links) or empty, takes files, entries and figures, and opens like
any bundle from its first manifest on. When a candidate becomes the bundle, `publish` decides.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import msgspec

from allrounder.engines.bundle.folders import beside, reported, sync
from allrounder.engines.bundle.locking import exclusive
from allrounder.engines.bundle.merging import Identity, Key, check_same, check_same_file, merge, needed
from allrounder.engines.bundle.reader import (
    POINTER,
    OpenBundle,
    digest_of,
    manifest_name,
    open_bundle,
    pointer_to,
    read_pointer,
)
from allrounder.engines.bundle.references import references
from allrounder.errors import BundleCorrupt, BundleError, GraphInvalid, InputInvalid
from allrounder.hashing import check_path, file_record
from allrounder.manifest import Entry, Fidelity, FileRecord, Latency, Manifest, Recommendation, encode
from allrounder.progress import Progress, silent

__all__ = ["Staging", "commit", "current_bundle", "point_to"]


class Staging:
    """A candidate bundle at ``path``, beside its ``place``; use it in a ``with`` statement.

    Nothing at the place changes before `allrounder.engines.bundle.publish.publish`; leaving the ``with`` statement
    removes whatever was not published. What dead processes left behind is removed at the beginning.

    Attributes:
        place: Where the bundle goes, links resolved.
        path: The temporary folder, on the same file system.
        base: The bundle that is already there, verified, or None.
        reused: Keys of the entries that `put` found there, with the same graphs, and left as they are.
    """

    def __init__(self, place: str | Path, *, progress: Progress = silent) -> None:
        """Opens what is there and links it.

        Raises:
            BundleError: The place is taken by something that is not a bundle, or cannot be written to.
            BundleCorrupt: The bundle there is damaged, or of an older allrounder.
            BundleBusy: Another process is publishing to it and does not come to an end.
        """
        self.place = Path(place).resolve()
        self.base: OpenBundle | None = None
        self.reused: tuple[Key, ...] = ()
        self._identity: Identity | None = None
        self._entries: dict[Key, Entry] = {}  # those that are new, or whose figures are
        self._files: dict[str, FileRecord] = {}
        self._recommendations: tuple[Recommendation, ...] = ()
        self._manifest: Manifest | None = None
        self._references: dict[str, frozenset[str]] = {}  # by sha256 of the graph
        with ExitStack() as stack:
            self.path = stack.enter_context(beside(self.place))
            with reported(self.place):
                while not self._begin(current_bundle(self.place, progress)):
                    pass  # somebody published between opening and locking: open again
            self._folder = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def files(self) -> Mapping[str, FileRecord]:
        return self._files

    @property
    def manifest(self) -> Manifest:
        """The manifest as it is in the folder.

        Raises:
            InputInvalid: A new bundle into which nothing was built yet.
        """
        if self._manifest is None:
            raise InputInvalid("nothing was built into this bundle yet", where=self.place)
        return self._manifest

    def accept(self, identity: Identity) -> None:
        """Makes sure that entries of this model, router, prompt and these limits may join the bundle.

        Raises:
            BundleMismatch: They may not.
        """
        self._identity = identity if self._identity is None else check_same(self._identity, identity, where=self.place)

    def place_file(self, source: Path, path: str, record: FileRecord) -> None:
        """Puts a verified file into the folder: as a hard link, or as a copy where the file system has none.

        Raises:
            BundleMismatch: The bundle holds another file of that name.
            BundleCorrupt: The path is unsafe, or the copy differs from ``record``.
            BundleError: The file cannot be written.
        """
        check_path(path, where=source)
        if path in self._files:
            check_same_file(path, self._files[path], record)
            return
        with reported(self.path):
            if not _link(source, self.path / path) and file_record(self.path / path) != record:
                raise BundleCorrupt("a file changed while it was copied", where=source)
        self._files[path] = record

    @contextmanager
    def new_file(self, path: str) -> Iterator[Callable[[bytes], int]]:
        """Gives a function that writes the next bytes of a new file, and returns their number.

        They are hashed as they come: no file is ever in memory as a whole. The file is in the folder where the block
        ends well, and gone where it does not.

        Raises:
            BundleError: It cannot be written, or the folder already holds one of that name.
        """
        check_path(path, where=self.path)
        target, digest, size = self.path / path, hashlib.sha256(), 0

        def write(data: bytes) -> int:
            nonlocal size
            with reported(self.path):
                file.write(data)
            digest.update(data)
            size += len(data)
            return len(data)

        with reported(self.path):
            target.parent.mkdir(parents=True, exist_ok=True)
            file = target.open("xb")  # never into a file that another bundle links
        try:
            yield write
            with reported(self.path):
                file.close()
        except BaseException:
            with contextlib.suppress(OSError):
                file.close()
            target.unlink(missing_ok=True)
            raise
        self._files[path] = FileRecord(sha256=digest.hexdigest(), bytes=size)

    def put(self, entries: Iterable[Entry], *, force: bool = False) -> tuple[Entry, ...]:
        """Adds entries, whose files are in the folder, and writes the manifest.

        An entry of the same key is replaced; unless ``force``, one with the same decision and graphs is left as it is,
        its figures included, and named in `reused`.

        Returns:
            The entries as they now are.
        """
        present = {entry.key: entry for entry in self._manifest.entries} if self._manifest else {}
        result: list[Entry] = []
        for entry in entries:
            old = present.get(entry.key)
            if old and not force and msgspec.structs.replace(old, fidelity=None, latency=None) == entry:
                self.reused += (entry.key,)
                result.append(old)
            else:
                self._entries[entry.key] = entry
                result.append(entry)
        self._write_manifest()
        return tuple(result)

    def set_figures(self, figures: Mapping[Key, tuple[Fidelity | None, Latency | None]]) -> None:
        """Writes measured figures into the manifest, in place of what was there.

        Raises:
            InputInvalid: A key that the bundle does not hold.
        """
        present = {entry.key: entry for entry in self.manifest.entries}
        if unknown := [key for key in figures if key not in present]:
            raise InputInvalid("figures for entries that the bundle does not hold", where=self.place, got=unknown)
        for key, (fidelity, latency) in figures.items():
            self._entries[key] = msgspec.structs.replace(present[key], fidelity=fidelity, latency=latency)
        self._write_manifest()

    def set_recommendations(self, recommendations: Iterable[Recommendation]) -> None:
        """Writes recommendations into the manifest, in place of those of the same versions."""
        self._recommendations = tuple(recommendations)
        self._write_manifest()

    def merged_into(self, current: Manifest | None, root: Path) -> Manifest:
        """Returns what the manifest ``current`` of the bundle at ``root`` becomes with this candidate's entries.

        Raises:
            BundleMismatch: They do not belong together.
            GraphInvalid: A graph is not an ONNX file, or points into a file that is not there.
        """
        assert self._identity is not None, "accept() comes before the first manifest"
        identity = self._identity
        if current is not None:
            identity = check_same(Identity.of(current), identity, where=self.place)
        manifest = merge(current, identity, self._entries, self._files, self._recommendations)

        def points_into(path: str) -> frozenset[str]:
            sha256 = manifest.files[path].sha256
            if sha256 not in self._references:
                file = self.path / path
                self._references[sha256] = references(file if path in self._files else root / path, path)
            if missing := self._references[sha256] - set(manifest.files):
                raise GraphInvalid("a graph points into files that are not listed", where=path, got=sorted(missing))
            return self._references[sha256]

        wanted = needed(manifest.entries, manifest.files, points_into)
        files = {path: record for path, record in manifest.files.items() if path in wanted}
        return msgspec.structs.replace(manifest, files=files)

    def close(self) -> None:
        """Removes the folder, if it was not published."""
        self._folder.close()

    def _begin(self, base: OpenBundle | None) -> bool:
        """Links the base into the folder; False where the base is no longer what is there."""
        with exclusive(self.place):
            if read_pointer(self.place) != (base and base.digest):
                return False
            if base is None:
                return True
            for path in base.manifest.files:
                _link(self.place / path, self.path / path)
        self.base, self._identity, self._files = base, Identity.of(base.manifest), dict(base.manifest.files)
        self._write_manifest()
        return True

    def _write_manifest(self) -> None:
        """Makes the folder a bundle of all entries; files that none of them needs leave it."""
        manifest = self.merged_into(self.base and self.base.manifest, self.place)
        with reported(self.path):
            commit(self.path, manifest)
        self._manifest, self._files = manifest, dict(manifest.files)


def commit(root: Path, manifest: Manifest) -> OpenBundle:
    """Makes a manifest, whose files are there, that of the bundle at ``root``, and sweeps what it does not list.

    Killed at any moment, the bundle is the one before or the new one.

    Raises:
        OSError: The file system refuses.
    """
    digest = point_to(root, encode(manifest))
    _sweep(root, {POINTER, manifest_name(digest), *manifest.files})
    return OpenBundle(root, manifest, digest)


def point_to(root: Path, manifest: bytes) -> str:
    """Writes a manifest, and then the root pointer to it; returns its digest.

    Each of the two is replaced atomically, and is on the disk before the next step.

    Raises:
        OSError: The file system refuses.
    """
    digest = digest_of(manifest)
    for name, data in ((manifest_name(digest), manifest), (POINTER, pointer_to(digest))):
        new = root / f"{name}.new"
        new.write_bytes(data)
        sync(new)
        new.replace(root / name)
        sync(root)
    return digest


def current_bundle(place: Path, progress: Progress = silent) -> OpenBundle | None:
    """Returns the verified bundle at a place, or None where there is nothing or an empty directory.

    Raises:
        BundleError: Something else is there, or a bundle that belongs to the hub's cache.
        BundleCorrupt: A damaged bundle, or one of an older allrounder, is there.
    """
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return None
    if not (place / POINTER).is_file():
        raise BundleError(
            "the place is taken by something that is not a bundle",
            where=place,
            remedy="give another directory, or remove what is there",
        )
    opened = open_bundle(place, progress=progress)
    if any((place / path).is_symlink() for path in (POINTER, *opened.manifest.files)):
        raise BundleError(
            "a bundle in the hub's cache takes no additions",
            where=place,
            remedy=f"copy it, and give the copy: cp -rL {shlex.quote(str(place))} DIRECTORY",
        )
    return opened


def _sweep(root: Path, listed: Collection[str]) -> None:
    """Removes every file below ``root`` that is not listed, and folders that hold nothing; follows no link."""
    for path in sorted(root.rglob("*"), reverse=True):  # what lies in a folder comes before the folder
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(root).as_posix() not in listed:
            path.unlink()


def _link(source: Path, target: Path) -> bool:
    """Links a file, or copies it; returns whether it was a link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
        return False
    return True
