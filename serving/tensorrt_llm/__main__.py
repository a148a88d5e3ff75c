"""``python -m allrounder.serving.tensorrt_llm CHECKPOINT --out DIR``: a ready-to-run directory, as a command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from allrounder.engines.tensorrt_llm.limits import checkpoint_parser, sizes_of
from allrounder.errors import AllRounderError
from allrounder.serving.tensorrt_llm.directory import write_directory

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the directory; returns the exit code (0, or 2 with one message on stderr)."""
    about = "A pruned checkpoint, made ready to run in TensorRT-LLM's PyTorch backend."
    arguments = checkpoint_parser("allrounder.serving.tensorrt_llm", about).parse_args(argv)
    try:
        place = write_directory(arguments.checkpoint, arguments.out, sizes_of(arguments))
    except AllRounderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {place}; its README.md says how to run it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
