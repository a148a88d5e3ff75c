"""Releases of other people's packages: version strings as tuples that compare in the order of time.

`packaging` would do it too; it is no dependency of the runtime, and three numbers are all that is asked for.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

__all__ = ["FINAL", "Release", "installed_release", "parse_release"]

FINAL = 1 << 30  # after every release candidate
_PATTERN = re.compile(
    r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?:\.\d+)*(?:\.?(a|b|rc|dev)(\d{1,6}))?(?:\.?post\d+)?(?:\+.*)?"
)


class Release(NamedTuple):
    """One release; tuples compare in the order of time. ``candidate`` is `FINAL` for a final one."""

    major: int
    minor: int
    patch: int = 0
    candidate: int = FINAL

    def __str__(self) -> str:
        candidate = "" if self.candidate == FINAL else f"rc{self.candidate}"
        return f"{self.major}.{self.minor}.{self.patch}{candidate}"


def parse_release(text: str) -> Release | None:
    """Returns the release that ``text`` names, or None. Alphas and nightly builds count as candidate 0."""
    found = _PATTERN.fullmatch(text.strip())
    if found is None:
        return None
    major, minor, patch, kind, number = found.groups()
    candidate = FINAL if kind is None else int(number) if kind == "rc" else 0
    return Release(int(major), int(minor), int(patch or 0), candidate)


def installed_release(package: str) -> tuple[str, Release | None] | None:
    """Returns the version of an installed package, as it is written and as it compares; None if it is not installed."""
    try:
        text = version(package)
    except PackageNotFoundError:
        return None
    return text, parse_release(text)
