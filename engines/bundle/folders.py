"""Folders beside a place: where work is done that must not be seen before it is whole.

They are named so that the next build at that place finds and removes those of processes that are no more.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from allrounder.engines.bundle.locking import exclusive, hold_directory
from allrounder.errors import BundleError

__all__ = ["beside", "reported", "sync"]


@contextmanager
def beside(place: Path) -> Iterator[Path]:
    """Gives a new folder beside a place, after removing those of dead processes; it is gone at the end.

    Raises:
        BundleError: The file system refuses.
        BundleBusy: Another process is writing to the place and does not come to an end.
    """
    path = place.parent / f"{_prefix(place)}{os.getpid()}-{secrets.token_hex(4)}"
    with reported(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(place):
            _sweep(place)
            path.mkdir()
            handle = hold_directory(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def sync(path: Path) -> None:
    """Brings a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def reported(where: Path, what: str = "bundle") -> Iterator[None]:
    """Turns the file system's errors into ours.

    Raises:
        BundleError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise BundleError(
            f"the {what} cannot be written",
            where=where,
            got=error,
            remedy="free space there, or give another directory",
        ) from error


def _sweep(place: Path) -> None:
    """Removes the folders of processes that are no more: nobody holds their lock. Call it under the place's lock."""
    for folder in place.parent.iterdir():
        if folder.name.startswith(_prefix(place)) and folder.is_dir() and not folder.is_symlink():
            handle = hold_directory(folder)
            if handle is not None:
                shutil.rmtree(folder)
                os.close(handle)


def _prefix(place: Path) -> str:
    return f".{place.name}.staging-"
