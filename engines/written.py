"""What tools of this project write beside a checkpoint's own files, and how that is known from a user's files.

A serving directory or an engine may lie inside the checkpoint that it was made from. Whoever replaces the checkpoint
wants them gone as well; a file of his own, or one of ours that he changed, he does not. So a folder has a list of its
files and digests, as `sha256sum` writes it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from allrounder.hashing import file_record, list_files

__all__ = ["LIST", "list_written", "written"]

LIST = "allrounder.sha256"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(.+)")


def list_written(folder: Path) -> None:
    """Writes the list of a folder, of every file below it.

    Raises:
        OSError: The file system refuses.
    """
    names = sorted(name for name in list_files(folder) if name != LIST)
    text = "".join(f"{file_record(folder / name).sha256}  {name}\n" for name in names)
    (folder / LIST).write_text(text, encoding="utf-8")


def written(root: Path, names: Collection[str], known: Collection[str] = ()) -> set[str]:
    """Returns those of ``names`` that a list below ``root`` holds and that are unchanged, the lists among them.

    Args:
        root: A directory.
        names: Files below it.
        known: Others below it that are known to be ours; the bytecode of a module among them, or of a listed one, is.

    Raises:
        OSError: A file cannot be read.
    """
    found: set[str] = set()
    for name in names:
        path = PurePosixPath(name)
        if path.name == LIST:
            inside = {str(path.parent / listed): digest for listed, digest in _read(root / name).items()}
            same = {each for each in inside if each in names and file_record(root / each).sha256 == inside[each]}
            found |= {name, *same}
    modules = {*found, *known}
    return found | {name for name in names if _module(PurePosixPath(name)) in modules}


def _read(file: Path) -> dict[str, str]:
    """Returns the digests of a list by name; a line that is none says nothing."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return {match[2]: match[1] for match in map(_LINE.fullmatch, lines) if match}


def _module(path: PurePosixPath) -> str | None:
    """Returns the module whose bytecode this would be: a/__pycache__/b.cpython-311.pyc is that of a/b.py."""
    if path.parent.name != "__pycache__" or path.suffix != ".pyc":
        return None
    return str(path.parent.parent / f"{path.name.split('.')[0]}.py")
