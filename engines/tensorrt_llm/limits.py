"""The sizes that an engine, or an executor of the PyTorch backend, is made for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from allrounder.engines.checkpoint.sidecar import Sidecar
from allrounder.errors import InputInvalid, ModelUnsupported
from allrounder.images.plan import Fixed

__all__ = ["EngineLimits", "Sizes", "checkpoint_parser", "sizes_of"]

_BATCH, _TEXT, _NEW = 8, 512, 256  # where nobody asks for others


class Sizes(NamedTuple):
    """What is asked for; None means the checkpoint's own limit, up to a modest one."""

    tensor_parallel: int = 1
    batch: int | None = None
    text_tokens: int | None = None
    new_tokens: int | None = None


class EngineLimits(NamedTuple):
    """What is made."""

    tokens: int  # T, image tokens of one prompt
    text_tokens: int  # text ids of one prompt, the template's included
    new_tokens: int
    batch: int
    tensor_parallel: int

    @classmethod
    def of(cls, sidecar: Sidecar, sizes: Sizes) -> EngineLimits:
        """Returns the limits of a checkpoint with these sizes.

        Raises:
            InputInvalid: A size below 1.
            ModelUnsupported: Images of the model have different numbers of tokens, and a prompt table has one.
        """
        if not isinstance(sidecar.model.images.layout, Fixed):
            raise ModelUnsupported(
                "TensorRT-LLM's directories count one number of tokens per image",
                where="model.images.layout",
                got=type(sidecar.model.images.layout).__name__,
                wanted=Fixed.__name__,
                remedy="serve the checkpoint with another stack, or build --backend onnxruntime",
            )
        if min(value for value in sizes if value is not None) < 1:
            raise InputInvalid("sizes begin at 1", got=sizes._asdict())
        return cls(
            tokens=sidecar.entry.pruning.budget(sidecar.model.images.tokens).tokens,
            text_tokens=sizes.text_tokens or min(sidecar.limits.text_tokens, _TEXT),
            new_tokens=sizes.new_tokens or min(sidecar.limits.new_tokens, _NEW),
            batch=sizes.batch or min(sidecar.limits.batch, _BATCH),
            tensor_parallel=sizes.tensor_parallel,
        )

    @property
    def input_len(self) -> int:
        """The longest prompt: text and image tokens."""
        return self.text_tokens + self.tokens

    @property
    def multimodal_len(self) -> int:
        """Rows of the prompt table: T for each request of a batch."""
        return self.batch * self.tokens

    def check_positions(self, image_tokens: int, most: int) -> None:
        """Raises `InputInvalid` for sequences, with so many image tokens, that exceed the decoder's positions."""
        if self.text_tokens + image_tokens + self.new_tokens > most:
            raise InputInvalid(
                "the longest sequence exceeds the decoder's positions",
                where="--text-tokens, --new-tokens",
                got=f"{self.text_tokens} text + {image_tokens} image + {self.new_tokens} new tokens",
                wanted=f"up to {most}",
                remedy="ask for fewer text or new tokens",
            )


def checkpoint_parser(module: str, description: str) -> argparse.ArgumentParser:
    """Returns the parser of a command that makes a directory, of some sizes, from a pruned checkpoint."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("checkpoint", type=Path, help="written by allrounder build --backend checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new directory")
    parser.add_argument("--tensor-parallel", type=int, default=1, metavar="RANKS")
    for name in ("--batch", "--text-tokens", "--new-tokens"):
        parser.add_argument(name, type=int)
    return parser


def sizes_of(arguments: argparse.Namespace) -> Sizes:
    """Returns the sizes that such a command was given."""
    return Sizes(*(getattr(arguments, name) for name in Sizes._fields))
