"""Golden prompts: how a runtime checks that its template and tokenizer are the model's.

What it is: the record of one line of `tokenizer/golden.jsonl`, and its reading and writing.
What it knows: the two paths of a bundle's tokenizer folder. What it does not know: how messages become ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

__all__ = ["GOLDEN", "GOLDEN_TIME", "TOKENIZER", "GoldenPrompt", "decode_golden", "encode_golden"]

TOKENIZER = "tokenizer/tokenizer.json"  # as the `tokenizers` library writes it
GOLDEN = "tokenizer/golden.jsonl"
GOLDEN_TIME: Final = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001 - local time, which a template gets that asks for it


class GoldenPrompt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One conversation, the whole prompt that Hugging Face renders of it at `GOLDEN_TIME`, and its ids.

    No text holds a control token's: there Hugging Face's ids are not those of the rule.
    """

    messages: list[dict[str, Any]]  # without images
    text: str
    input_ids: tuple[int, ...]  # one placeholder per image


def encode_golden(prompts: Iterable[GoldenPrompt]) -> bytes:
    """Returns the content of `GOLDEN`."""
    return msgspec.json.Encoder().encode_lines(prompts)


def decode_golden(data: bytes) -> list[GoldenPrompt]:
    """Returns the prompts of `GOLDEN`.

    Raises:
        msgspec.MsgspecError: Not such lines.
    """
    return msgspec.json.Decoder(GoldenPrompt).decode_lines(data)
