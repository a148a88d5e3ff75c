"""The tokenizer folder: tokenizer.json and golden prompts.

What it is: what a runtime needs to turn messages into ids, and to check that it does so as the model does.
What it knows: the model's processor and chat template. What it does not know: graphs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from allrounder.golden import GOLDEN, TOKENIZER, encode_golden
from allrounder.manifest import ChatTemplate
from allrounder.vlm.template import golden_prompts

__all__ = ["write_tokenizer"]


def write_tokenizer(processor: Any, tokenizer_json: str, chat: ChatTemplate, out: Path) -> tuple[str, ...]:
    """Writes tokenizer.json and the golden prompts below ``out`` and returns their paths relative to it.

    Args:
        processor: A `Processor`, or a stock one, whose tokenizer gives the golden ids.
        tokenizer_json: What is written: the same tokenizer, sealed (`allrounder.vlm.control_tokens`).
        chat: The chat template.
        out: A directory.

    Raises:
        ModelUnsupported: The tokenizer cannot be used by runtimes.
    """
    golden = golden_prompts(processor, tokenizer_json, chat)
    for name, data in {TOKENIZER: tokenizer_json.encode(), GOLDEN: encode_golden(golden)}.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    return TOKENIZER, GOLDEN
