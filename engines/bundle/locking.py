"""One writer at a time: an exclusive lock beside a bundle (`flock`), which dies with its holder."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from allrounder.errors import BundleBusy

__all__ = ["exclusive", "hold_directory"]

_POLL_S = 0.02


@contextmanager
def exclusive(place: Path, *, wait_s: float = 10.0) -> Iterator[None]:
    """Holds the lock of the bundle at ``place``; its file ``.<name>.lock`` is gone afterwards.

    Raises:
        BundleBusy: Another process holds it for longer than ``wait_s`` seconds.
        OSError: The file cannot be made.
    """
    path = place.parent / f".{place.name}.lock"
    deadline = time.monotonic() + wait_s
    while (handle := _try(path)) is None:
        if time.monotonic() > deadline:
            raise BundleBusy(
                "another process is writing to this bundle",
                where=place,
                got=_holder(path),
                remedy="wait for it to end, then try again",
            )
        time.sleep(_POLL_S)
    try:
        os.write(handle, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def hold_directory(path: Path) -> int | None:
    """Locks a directory for as long as the returned descriptor is open; None where another holds it."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return handle if _lock(handle) else None


def _try(path: Path) -> int | None:
    """Returns the locked file's descriptor, or None where another holds it or just removed it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if not _lock(handle):
        return None
    try:
        # The holder before may have removed this very file: then the lock is on nothing.
        if os.fstat(handle).st_ino == path.stat().st_ino:
            os.ftruncate(handle, 0)
            return handle
    except FileNotFoundError:
        pass
    os.close(handle)
    return None


def _lock(handle: int) -> bool:
    """Locks without waiting; closes the descriptor where that fails."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    except BaseException:
        os.close(handle)
        raise
    return True


def _holder(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
