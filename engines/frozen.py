"""Frozen directories, which the exporter hands over: `frozen.json`, and the check of the files that it lists."""

from __future__ import annotations

from pathlib import Path

from allrounder.consistency import check_frozen
from allrounder.errors import BundleCorrupt
from allrounder.hashing import check_files, verify_files
from allrounder.manifest import Frozen, decode
from allrounder.progress import Progress, silent

__all__ = ["FROZEN", "read_frozen", "verify_frozen"]

FROZEN = "frozen.json"


def read_frozen(directory: Path) -> Frozen:
    """Returns the record of a frozen directory; its files are not read yet.

    Raises:
        BundleCorrupt: It has none, or one that cannot be read or contradicts itself.
        BundleFromFuture: It was written by a newer exporter.
    """
    file = directory / FROZEN
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BundleCorrupt("this is not a directory of frozen graphs", where=file, got=error) from error
    frozen = decode(data, Frozen, where=file)
    check_frozen(frozen, where=file)
    return frozen


def verify_frozen(directory: Path, frozen: Frozen, progress: Progress = silent) -> None:
    """Hashes every listed file; others are left alone.

    Raises:
        BundleCorrupt: A file is missing, changed or unsafe.
    """
    try:
        verify_files(directory, frozen.files, check_files(directory, frozen.files), progress)
    except OSError as error:
        raise BundleCorrupt("the frozen graphs cannot be read", where=directory, got=error) from error
