"""Where allrounder keeps what it remembers per user.

The XDG base directory rules. A cache may always be absent, and its readers must do without.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["cache_dir", "write_whole"]


def cache_dir() -> Path | None:
    """Returns ``$XDG_CACHE_HOME/allrounder`` or ``~/.cache/allrounder``, or None for a user without a home.

    The directory need not exist. A relative ``XDG_CACHE_HOME`` is ignored, as its specification demands.
    """
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if Path(configured).is_absolute():
        return Path(configured) / "allrounder"
    try:
        return Path.home() / ".cache" / "allrounder"
    except RuntimeError:
        return None


def write_whole(path: Path, data: bytes) -> None:
    """Writes a small file so that a reader meets the old content or the new one, never a part.

    Missing parents are created for this user alone. After a power failure the file may be empty or old:
    this is for caches.

    Raises:
        OSError: The file cannot be written; nothing is left behind.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
