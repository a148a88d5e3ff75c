"""Stamps: this user has already hashed those files on this machine.

A stamp is a small file per directory in the user's cache. Its name is a digest over the directory's path and the listed
files, each with digest, device, inode, size, mtime and ctime: a file of the same state has the same content, because
ctime cannot be set back. It guards against accident, not against someone who can write your files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from allrounder.hashing import FileStat, check_files, verify_files
from allrounder.manifest import FileRecord
from allrounder.progress import Progress, silent
from allrounder.userdirs import cache_dir, write_whole

__all__ = ["verify_once"]

_log = logging.getLogger("allrounder")
# The kernel's clock for file times ticks every few milliseconds: two writes within one tick have one time. Files
# younger than this are not stamped, so that a second write in the same tick cannot hide behind the stamp.
_SETTLED_NS = 200_000_000


def verify_once(
    root: Path,
    files: Mapping[str, FileRecord],
    progress: Progress = silent,
    *,
    place: Path | None = None,
    again: bool = False,
) -> None:
    """Checks names, kinds and sizes of files; hashes them unless this user has hashed them in this state before.

    Args:
        root: A directory, links resolved.
        files: The files below it.
        progress: Gets the MiB that are hashed.
        place: What is stamped, where that is not ``root``: a part of it.
        again: Hash them in any case.

    Raises:
        BundleCorrupt: A path is unsafe; a file is missing, no regular file, of another size, or has changed.
        OSError: A file cannot be read.
    """
    place, found = place or root, check_files(root, files)
    stamp = _stamp(place, files, found)
    if not again and stamp and os.access(stamp, os.F_OK):
        return
    unchanged = verify_files(root, files, found, progress)
    if unchanged and all(time.time_ns() - state.ctime_ns >= _SETTLED_NS for state in found.values()):
        _write(stamp, place)


def _stamp(place: Path, files: Mapping[str, FileRecord], found: Mapping[str, FileStat]) -> Path | None:
    """Returns where the stamp lies, by its name, or None for a user without a home."""
    cache, listed = cache_dir(), [(path, files[path].sha256, found[path]) for path in sorted(files)]
    name = hashlib.sha256(os.fsencode(place) + msgspec.json.encode(listed)).hexdigest()
    return cache and cache / "stamps" / name


def _write(stamp: Path | None, place: Path) -> None:
    """Remembers a directory, and forgets its older states and directories that are gone."""
    try:
        if stamp is None:
            raise FileNotFoundError("this user has no home directory")
        write_whole(stamp, os.fsencode(place))
        for other in stamp.parent.glob("[!.]*"):  # not those that are being written
            path = Path(os.fsdecode(other.read_bytes()))
            if other != stamp and (path == place or not path.is_dir()):
                other.unlink(missing_ok=True)
    except OSError as error:
        _log.info("a stamp cannot be written, so that this is hashed at every load: %a (%s)", os.fspath(place), error)
