"""Stamps: this user has already hashed those files on this machine.

What it is: a small file per bundle in the user's cache that holds, for every file that was hashed, its digest beside
device, inode, size, mtime and ctime.
What it knows: that a file of the same state has the same content (ctime cannot be set back). A new manifest over the
same files, with new figures say, needs no new hashing. It guards against accident, not against someone who can write
your files.
What it does not know: how a bundle is verified.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from allrounder.hashing import FileStat
from allrounder.userdirs import cache_dir, write_whole

__all__ = ["read_stamp", "write_stamp"]

_log = logging.getLogger("allrounder")
# The kernel's clock for file times ticks every few milliseconds: two writes within one tick look alike. A
# file younger than this is not stamped, so that a second write in the same tick cannot hide behind it.
_SETTLED_NS = 200_000_000


class _Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    sha256: str
    state: FileStat


class _Stamp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    files: dict[str, _Seen]


def read_stamp(root: Path, found: Mapping[str, FileStat]) -> dict[str, str]:
    """Returns the digests of those files below ``root`` that are still what this user has hashed before."""
    place = _place(root)
    try:
        stamp = msgspec.json.decode(place.read_bytes(), type=_Stamp) if place else None
    except (OSError, ValueError, RecursionError):  # ValueError: msgspec's errors, and text that is not UTF-8
        stamp = None  # no stamp, or none that can be read: everything is hashed
    if stamp is None or stamp.path != str(root):
        return {}
    return {path: seen.sha256 for path, seen in stamp.files.items() if found.get(path) == seen.state}


def write_stamp(root: Path, digests: Mapping[str, str], found: Mapping[str, FileStat]) -> None:
    """Remembers the files below ``root`` that have these digests in this state; says so in the log where it cannot."""
    place = _place(root)
    if place is None:
        _log.info("%s is hashed at every load: this user has no home directory for its stamp", _text(root))
        return
    settled = {path: found[path] for path in digests if time.time_ns() - found[path].ctime_ns >= _SETTLED_NS}
    stamp = _Stamp(str(root), {path: _Seen(digests[path], state) for path, state in settled.items()})
    try:
        write_whole(place, msgspec.json.encode(stamp))
        _sweep(place.parent)
    except (OSError, UnicodeEncodeError) as error:  # the path of a bundle need not be text
        _log.info("%s is hashed at every load: its stamp cannot be written (%s)", _text(root), error)


def _text(path: Path) -> str:
    """Returns a path as text that every log can take: its bytes need not be UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _place(root: Path) -> Path | None:
    cache = cache_dir()
    return cache and cache / "stamps" / f"{hashlib.sha256(str(root).encode(errors='surrogateescape')).hexdigest()}.json"


def _sweep(folder: Path) -> None:
    """Removes the stamps of bundles that are gone."""
    for file in folder.glob("*.json"):
        try:
            if not Path(msgspec.json.decode(file.read_bytes(), type=_Stamp).path).is_dir():
                file.unlink()
        except (OSError, ValueError, RecursionError):
            file.unlink(missing_ok=True)
