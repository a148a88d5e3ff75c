"""Stamps: this user has already hashed that bundle on this machine.

What it is: a small file per bundle in the user's cache that holds the bundle's path, the manifest's digest and,
of every file, device, inode, size, mtime and ctime.
What it knows: that all of these are equal only if nothing was written since (ctime cannot be set back). It
guards against accident, not against someone who can write your files.
What it does not know: how a bundle is verified.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from allrounder.hashing import FileStat
from allrounder.userdirs import cache_dir, write_whole

__all__ = ["is_stamped", "write_stamp"]

_log = logging.getLogger("allrounder")
# The kernel's clock for file times ticks every few milliseconds: two writes within one tick look alike. A
# file younger than this is not stamped, so that a second write in the same tick cannot hide behind it.
_SETTLED_NS = 200_000_000


class _Stamp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    digest: str
    files: dict[str, FileStat]


def is_stamped(root: Path, digest: str, found: Mapping[str, FileStat]) -> bool:
    """Returns whether this very state of the bundle at ``root`` has been verified by this user before."""
    place = _place(root)
    if place is None:
        return False
    try:
        stamp = msgspec.json.decode(place.read_bytes(), type=_Stamp)
    except (OSError, msgspec.MsgspecError, RecursionError):
        return False  # no stamp, or none that can be read: the bundle is hashed
    return stamp == _Stamp(str(root), digest, dict(found))


def write_stamp(root: Path, digest: str, found: Mapping[str, FileStat]) -> None:
    """Remembers that the bundle at ``root`` was verified in this state; says so in the log where it cannot."""
    if any(time.time_ns() - seen.ctime_ns < _SETTLED_NS for seen in found.values()):
        _log.debug("%s was written this very moment: it will be hashed again at its next load", root)
        return
    place = _place(root)
    if place is None:
        _log.info("%s is hashed at every load: this user has no home directory for its stamp", root)
        return
    try:
        write_whole(place, msgspec.json.encode(_Stamp(str(root), digest, dict(found))))
        _sweep(place.parent)
    except OSError as error:
        _log.info("%s is hashed at every load: its stamp cannot be written (%s)", root, error)


def _place(root: Path) -> Path | None:
    cache = cache_dir()
    return cache and cache / "stamps" / f"{hashlib.sha256(str(root).encode(errors='surrogateescape')).hexdigest()}.json"


def _sweep(folder: Path) -> None:
    """Removes the stamps of bundles that are gone."""
    for file in folder.glob("*.json"):
        try:
            if not Path(msgspec.json.decode(file.read_bytes(), type=_Stamp).path).is_dir():
                file.unlink()
        except (OSError, msgspec.MsgspecError, RecursionError):
            file.unlink(missing_ok=True)
