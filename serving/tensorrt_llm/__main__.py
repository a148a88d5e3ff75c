"""``python -m allrounder.serving.tensorrt_llm CHECKPOINT --out DIR``: a ready-to-run directory, as a command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from allrounder.errors import AllRounderError
from allrounder.serving.tensorrt_llm.directory import ServeOptions, write_directory

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the directory; returns the exit code (0, or 2 with one message on stderr)."""
    parser = argparse.ArgumentParser(
        prog="python -m allrounder.serving.tensorrt_llm",
        description="A pruned checkpoint, made ready to run in TensorRT-LLM's PyTorch backend.",
    )
    parser.add_argument("checkpoint", type=Path, help="written by allrounder build --backend checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new directory")
    parser.add_argument("--tensor-parallel", type=int, default=1, metavar="RANKS")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--text-tokens", type=int)
    parser.add_argument("--new-tokens", type=int)
    arguments = parser.parse_args(argv)
    options = ServeOptions(arguments.tensor_parallel, arguments.batch, arguments.text_tokens, arguments.new_tokens)
    try:
        place = write_directory(arguments.checkpoint, arguments.out, options)
    except AllRounderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {place}; its README.md says how to run it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
