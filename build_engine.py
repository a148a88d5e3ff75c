"""The main job as a command: ``python build_engine.py --version par-lite``; the same as ``allrounder build``."""

import sys
from collections.abc import Sequence

from allrounder.commands.cli import quiet, run_command

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Builds a bundle; returns the exit code (0, or 2 with one message on stderr)."""
    return run_command("build", sys.argv[1:] if argv is None else argv, prog="build_engine.py")


if __name__ == "__main__":
    quiet()
    sys.exit(main())
