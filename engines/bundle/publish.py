"""Publishing: a staged candidate becomes the bundle at its place, in the order that `reader` relies on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from allrounder.engines.bundle.folders import reported, sync
from allrounder.engines.bundle.locking import exclusive
from allrounder.engines.bundle.reader import OpenBundle, digest_of, read_pointer
from allrounder.engines.bundle.staging import Staging, commit, current_bundle
from allrounder.manifest import Entry, encode
from allrounder.progress import Progress

__all__ = ["PLACE", "BundleOutput", "Staging", "bundle_output", "publish"]

PLACE = "bundles/{model}"  # of a build that names none


class BundleOutput:
    """A build that ends in the bundle at its place; an `allrounder.engines.backends.Output`."""

    notes: tuple[str, ...] = ()

    def __init__(self, staging: Staging) -> None:
        self.place, self.staging = staging.place, staging

    def publish(self, frozen_dir: Path, entries: Iterable[Entry]) -> tuple[Entry, ...]:
        """Publishes the staged bundle and returns ``entries`` as they are in it, see `publish`."""
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


def publish(staging: Staging) -> OpenBundle:
    """Makes the staged bundle the one at its place; killed at any moment, the place holds the old one or the new one.

    What others published since the staging began is kept; an entry of the same key is replaced.

    Raises:
        BundleBusy: Another process is publishing and does not come to an end.
        BundleMismatch: Somebody meanwhile published a bundle of another model, router or prompt.
        BundleError: The file system refuses; the place holds the old bundle.
        InputInvalid: Nothing was built.
    """
    place, manifest = staging.place, staging.manifest
    with reported(place):
        for path in manifest.files:
            sync(staging.path / path)
        _sync_folders(staging.path, manifest.files)
        published = None
        while published is None:
            published = _try_publish(staging)
    staging.close()
    return published


def _try_publish(staging: Staging) -> OpenBundle | None:
    """Publishes, or returns None where somebody else did between opening and locking."""
    place, base = staging.place, staging.base
    current = base if base and read_pointer(place) == base.digest else current_bundle(place)
    with exclusive(place):
        if read_pointer(place) != (current and current.digest):
            return None
        if current is None:
            staging.path.rename(place)  # onto nothing or an empty directory
            sync(place.parent)
            return OpenBundle(place, staging.manifest, digest_of(encode(staging.manifest)))
        manifest = staging.merged_into(current.manifest, place)
        arriving = set(manifest.files) - set(current.manifest.files)
        for path in arriving:
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (staging.path / path).rename(place / path)
        _sync_folders(place, arriving)
        return commit(place, manifest)


def _sync_folders(root: Path, paths: Iterable[str]) -> None:
    """Brings the names in all folders above these files to the disk."""
    for folder in {root / parent for path in paths for parent in PurePosixPath(path).parents}:
        sync(folder)
