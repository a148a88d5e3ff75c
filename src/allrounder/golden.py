"""Golden prompts: how a runtime checks that its tokenizer is the model's."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct

__all__ = ["GOLDEN", "TOKENIZER", "GoldenPrompt", "decode_golden", "encode_golden"]

TOKENIZER = "tokenizer/tokenizer.json"  # as the `tokenizers` library writes it
GOLDEN = "tokenizer/golden.jsonl"


class GoldenPrompt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question, the whole prompt that Hugging Face renders of it, and its ids on both sides of the image.

    No question holds a special token's text: there Hugging Face's ids are not those of the rule.
    """

    question: str
    text: str  # the rendered prompt, with one image token's text where the image tokens go
    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]


def encode_golden(prompts: Iterable[GoldenPrompt]) -> bytes:
    """Returns the content of `GOLDEN`."""
    return msgspec.json.Encoder().encode_lines(prompts)


def decode_golden(data: bytes) -> list[GoldenPrompt]:
    """Returns the prompts of `GOLDEN`.

    Raises:
        msgspec.MsgspecError: Not such lines.
    """
    return msgspec.json.Decoder(GoldenPrompt).decode_lines(data)
