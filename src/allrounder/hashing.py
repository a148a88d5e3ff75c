"""Files of a manifest: safe names, regular files, and digests."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import NamedTuple

from allrounder.errors import BundleCorrupt
from allrounder.manifest import FileRecord
from allrounder.progress import Progress, silent

__all__ = ["FileStat", "check_files", "check_path", "file_record", "list_files", "read_small", "verify_files"]

_CHUNK = 4 << 20  # bytes per read: large enough that hashing, not the interpreter, is what takes time
_THREADS = 2  # hashing lets go of the interpreter's lock; more threads than this wait for the disk
_MIB = 1 << 20
# Every segment begins with a letter, digit or underscore: so there is no "..", no ".", no hidden file, no
# empty segment, no backslash, no drive letter, and no name that another file system could not hold.
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,199})*", re.ASCII)


class FileStat(NamedTuple):
    """What shows that a file changed, without reading it."""

    device: int
    inode: int
    size: int  # bytes
    mtime_ns: int
    ctime_ns: int  # unlike mtime, nobody can set it back

    @classmethod
    def of(cls, status: os.stat_result) -> FileStat:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def check_path(path: str, *, where: object) -> None:
    """Refuses a listed path that could mean anything but a plain file below its directory.

    Raises:
        BundleCorrupt: Absolute, leaving the directory, not normalised, or with unusual characters.
    """
    if _SAFE.fullmatch(path) and len(path) <= 1000:
        return
    if path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", path):
        what = "a listed path is absolute"
    elif ".." in re.split(r"[/\\]", path):
        what = "a listed path leaves the bundle"
    else:
        what = "a listed path is not safe"
    raise BundleCorrupt(
        what,
        where=where,
        got=ascii(path[:200]),
        wanted="a relative path of letters, digits, '.', '_' and '-', with '/' between folders",
        remedy="do not load this; build it again",
    )


def list_files(root: Path) -> dict[str, FileStat]:
    """Returns every file below ``root`` by its relative path with '/' between folders.

    Raises:
        BundleCorrupt: A symbolic link (to a file or a directory) or a special file is in it.
        OSError: The directory cannot be read.
    """
    found: dict[str, FileStat] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}{entry.name}"
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    folders.append(f"{name}/")
                elif stat.S_ISREG(status.st_mode):
                    found[name] = FileStat.of(status)
                else:
                    _refuse_special(root, name, status)
    return found


def _refuse_special(root: Path, name: str, status: os.stat_result) -> None:
    kind = "symbolic link" if stat.S_ISLNK(status.st_mode) else "special file"
    raise BundleCorrupt(
        f"a {kind} is where only regular files may be",
        where=root / name,
        remedy="put the file itself in its place (cp -rL follows links), or build the bundle again",
    )


def check_files(root: Path, files: Mapping[str, FileRecord]) -> dict[str, FileStat]:
    """Checks that every listed file is there, a regular one below no link, in its full length.

    In the hub's cache (`models--*/snapshots/*`) a file may be a link to one in the cache's own `blobs`. Other files are
    nobody's business here. ``root`` has its links resolved.

    Returns:
        The state of each.

    Raises:
        BundleCorrupt: A path is unsafe; a file is missing, no regular file, or of another size.
        OSError: The directory cannot be read.
    """
    for path in files:
        check_path(path, where=root)
    folders = {str(folder) for path in files for folder in PurePosixPath(path).parents} - {"."}
    for folder in sorted(folders):
        _status(root, folder)
    return {path: _whole(root, path, record) for path, record in files.items()}


def read_small(root: Path, name: str) -> bytes | None:
    """Returns what a small file holds, or None where there is none; a pipe in its place is refused.

    So is a link, but for those of the hub's cache; see `check_files`.

    Raises:
        BundleCorrupt: Something else than a regular file is there.
        OSError: It cannot be read.
    """
    status = _status(root, name)
    return (root / name).read_bytes() if status and stat.S_ISREG(status.st_mode) else None


def _whole(root: Path, path: str, record: FileRecord) -> FileStat:
    status = _status(root, path)
    if status is None or not stat.S_ISREG(status.st_mode):
        raise BundleCorrupt("a file is missing", where=root / path, remedy="copy or build the bundle again")
    if status.st_size != record.bytes:
        raise BundleCorrupt(
            "a file is truncated" if status.st_size < record.bytes else "a file is too long",
            where=root / path,
            got=f"{status.st_size} bytes",
            wanted=f"{record.bytes} bytes",
            remedy="copy or build the bundle again",
        )
    return FileStat.of(status)


def _status(root: Path, name: str) -> os.stat_result | None:
    """Returns the status of a file or folder, or None where there is none; anything else is refused."""
    try:
        status = _real(root, name).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        _refuse_special(root, name, status)
    return status


def _real(root: Path, name: str) -> Path:
    """Returns where a file lies: for a link of the hub's cache into its own blobs, there."""
    path = root / name
    cache = next((each.parent for each in root.parents if each.name == "snapshots"), None)
    if cache is None or not cache.name.startswith("models--") or not path.is_symlink():
        return path
    real = Path(os.path.realpath(path))
    return real if real.parent == cache / "blobs" and not real.is_dir() else path


def verify_files(
    root: Path, files: Mapping[str, FileRecord], found: Mapping[str, FileStat], progress: Progress = silent
) -> bool:
    """Hashes files in full.

    ``found`` is what `check_files` returned; ``progress`` gets the MiB that are done.

    Returns:
        Whether the states in ``found`` still hold. They need not: a hard link, as staging makes it, changes ctime.

    Raises:
        BundleCorrupt: A file has changed.
        OSError: A file cannot be read.
    """
    total = -(-sum(record.bytes for record in files.values()) // _MIB)
    done, lock = 0, Lock()

    def read(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            progress("verifying (MiB)", min(done // _MIB, total - 1), total)

    def verify(path: str) -> bool:
        digest, seen = _hash(_real(root, path), read)
        if digest != files[path].sha256:
            raise BundleCorrupt(
                "a file has changed",
                where=root / path,
                got=f"sha256 {digest}",
                wanted=f"sha256 {files[path].sha256}",
                remedy="copy or build the bundle again",
            )
        return seen == found[path]

    largest_first = sorted(files, key=lambda path: -files[path].bytes)
    with ThreadPoolExecutor(_THREADS) as pool:
        unchanged = list(pool.map(verify, largest_first))
    if total:
        progress("verifying (MiB)", total, total)
    return all(unchanged)


def file_record(path: Path) -> FileRecord:
    """Returns size and digest of a file.

    Raises:
        OSError: It cannot be read.
    """
    digest, seen = _hash(path, lambda _: None)
    return FileRecord(sha256=digest, bytes=seen.size)


def _hash(path: Path, read: Callable[[int], None]) -> tuple[str, FileStat]:
    """Returns digest and state of a file after it was read; a link in its place is not followed."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_CHUNK))
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            read(count)
        return digest.hexdigest(), FileStat.of(os.fstat(file.fileno()))
