"""Writing bundles: staging and publishing.

What it is: `publish`, which makes a staged candidate the bundle at its place; `bundle_output`, which is how a backend
says that its builds end in a bundle; `Staging` is in its own module.
What it knows: the order of writes that `allrounder.bundle` describes and its reader relies on.
What it does not know: backends, and how figures are measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from allrounder.bundle import DIGEST, JOURNAL, MANIFEST, Journal, OpenBundle, digest_of, read_journal
from allrounder.engines.folders import reported, sync
from allrounder.engines.locking import exclusive
from allrounder.engines.merging import Key
from allrounder.engines.staging import Staging, current_bundle, manifest_digest
from allrounder.manifest import Entry, Fidelity, Latency, Recommendation, encode
from allrounder.progress import Progress

__all__ = ["PLACE", "BundleOutput", "Staging", "bundle_output", "publish", "set_figures", "set_recommendations"]

PLACE = "bundles/{model}"  # of a build that names none


class BundleOutput:
    """A build that ends in the bundle at its place; an `allrounder.engines.backends.Output`."""

    notes: tuple[str, ...] = ()

    def __init__(self, staging: Staging) -> None:
        self.place, self.staging = staging.place, staging

    def publish(self, frozen_dir: Path, entries: Iterable[Entry]) -> tuple[Entry, ...]:
        """Publishes the staged bundle and returns ``entries`` as they stand in it, see `publish`."""
        del frozen_dir  # what is published of it was staged
        published = publish(self.staging)
        keys = {entry.key for entry in entries}
        return tuple(entry for entry in published.manifest.entries if entry.key in keys)


@contextmanager
def bundle_output(place: Path, *, force: bool, progress: Progress) -> Iterator[BundleOutput]:
    """Opens a place for a build that ends in a bundle; see `Staging` for what it refuses."""
    del force  # decides about entries, not about the bundle
    with Staging(place, progress=progress) as staging:
        yield BundleOutput(staging)


def set_figures(staging: Staging, figures: Mapping[Key, tuple[Fidelity | None, Latency | None]]) -> None:
    """Writes measured figures into the staged manifest.

    Args:
        staging: The staged bundle.
        figures: Fidelity and latency by `Entry.key`; they replace what stood there.

    Raises:
        InputInvalid: A key that the staged bundle does not hold.
    """
    staging.set_figures(figures)


def set_recommendations(staging: Staging, recommendations: Iterable[Recommendation]) -> None:
    """Writes into the staged manifest which layer policy versions should be built with.

    They replace those of the same versions; others stay while the entries that they speak of, and their fidelity, do.
    """
    staging.set_recommendations(recommendations)


def publish(staging: Staging) -> OpenBundle:
    """Makes the staged bundle the one at its place; killed at any moment, the place holds the old one or the new one.

    What others published since the staging began is kept; an entry of the same key is replaced.

    Raises:
        BundleBusy: Another process is publishing and does not come to an end.
        BundleMismatch: Somebody meanwhile published a bundle of another host, router or prompt.
        BundleError: The file system refuses; the place holds the old bundle.
        InputInvalid: Nothing was built.
    """
    with reported(staging.place):
        _sync(staging.path, staging.manifest.files, but=staging.base.manifest.files if staging.base else ())
        published = None
        while published is None:
            published = _try_publish(staging)
    staging.close()
    return published


def _try_publish(staging: Staging) -> OpenBundle | None:
    """Publishes, or returns None where somebody else did between opening and locking."""
    place, base = staging.place, staging.base
    unchanged = base is not None and manifest_digest(place) == base.digest
    current = base if unchanged else current_bundle(place)
    with exclusive(place):
        if manifest_digest(place) != (current and current.digest):
            return None
        if current is None:
            staging.path.rename(place)  # onto nothing or an empty directory
            sync(place.parent)
            return OpenBundle(place, staging.manifest, digest_of(encode(staging.manifest)))
        _recover(place, current, staging.path)
        return _replace(staging, current)


def _replace(staging: Staging, current: OpenBundle) -> OpenBundle:
    """Turns the bundle at the place into the new one, in the order that `allrounder.bundle` describes."""
    place = staging.place
    manifest = staging.merged_into(current.manifest, place)
    data = encode(manifest)
    digest = digest_of(data)
    if digest == current.digest:
        return current
    old, new = set(current.manifest.files), set(manifest.files)
    arriving, leaving = sorted(new - old), sorted(old - new)
    _move_in(staging.path, place, JOURNAL, Journal(digest, tuple(sorted(old ^ new))).encode())
    for path in arriving:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (staging.path / path).rename(place / path)
    _sync_folders(place, arriving)
    _move_in(staging.path, place, MANIFEST, data)
    _move_in(staging.path, place, DIGEST, f"{digest}\n".encode("ascii"))
    _remove(place, leaving)
    return OpenBundle(place, manifest, digest)


def _recover(place: Path, current: OpenBundle, scratch: Path) -> None:
    """Puts in order what an interrupted publish left: finishes it, or undoes it, as `current` says."""
    journal = read_journal(place)
    if journal is None:
        return
    _move_in(scratch, place, DIGEST, f"{current.digest}\n".encode("ascii"))
    _remove(place, [path for path in journal.files if path not in current.manifest.files])


def _remove(place: Path, paths: Iterable[str]) -> None:
    """Removes files that no manifest lists any more, folders that this empties, and at last the journal."""
    paths = list(paths)
    for path in paths:
        (place / path).unlink(missing_ok=True)
    _sync_folders(place, paths)
    for folder in sorted({place / path for path in paths for path in _folders(path)}, reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    (place / JOURNAL).unlink()
    sync(place)


def _move_in(scratch: Path, place: Path, name: str, data: bytes) -> None:
    """Replaces a small file at the place atomically; it is on the disk when this returns."""
    file = scratch / f"{name}.incoming"
    file.write_bytes(data)
    sync(file)
    file.replace(place / name)
    sync(place)


def _sync(root: Path, files: Iterable[str], *, but: Iterable[str]) -> None:
    """Brings a folder's new files and its directories to the disk."""
    paths = [*(set(files) - set(but)), MANIFEST, DIGEST]
    for path in paths:
        sync(root / path)
    _sync_folders(root, paths)


def _folders(path: str) -> list[str]:
    """Returns the folders above a path, outermost first: "a/b/c" has "a" and "a/b"."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _sync_folders(root: Path, paths: Iterable[str]) -> None:
    for folder in {"", *(folder for path in paths for folder in _folders(path))}:
        if (root / folder).is_dir():
            sync(root / folder)
