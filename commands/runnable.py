"""Which entries of a bundle run on this machine, and what builds those that it lacks."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from allrounder.engines.bundle.reader import OpenBundle
from allrounder.engines.options import EngineOptions
from allrounder.engines.sessions import why_not
from allrounder.manifest import Entry

__all__ = ["build_command", "runnable"]


def runnable(entries: Sequence[Entry], options: EngineOptions) -> tuple[Entry, ...]:
    """Returns those of ``entries`` that run here, opened with ``options``; each other one is a line on stderr.

    Raises:
        EngineUnavailable: None of them does.
    """
    reasons = {entry.key: why_not(entry, options) for entry in entries}
    able = tuple(entry for entry in entries if reasons[entry.key] is None)
    for entry in entries:
        reason = reasons[entry.key]
        if reason is not None and not able:
            raise reason
        if reason is not None:
            print(f"note: {entry.label} is left aside: {reason}", file=sys.stderr, flush=True)
    return able


def build_command(bundle: OpenBundle, *flags: str) -> str:
    """Returns the command line that adds to a bundle what ``flags`` name."""
    command = shlex.join(["allrounder", "build", *flags, "--out", str(bundle.path)])
    return f"{command} (with the --model and --router of this bundle, where it is not of the demo model)"
