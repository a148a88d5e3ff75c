"""Text beside an image's tokens: its control tokens, and the proof that we tokenise it as Hugging Face does.

Stock processors put it into the prompt and tokenise the whole; we tokenise it apart (`ChatEncoder.image_ids`).
"""

from __future__ import annotations

import json
from typing import Any

from allrounder.chat.tokenization import ChatEncoder
from allrounder.errors import ModelUnsupported
from allrounder.images.plan import ImagePlan, LongestEdge
from allrounder.images.planning import plan_images
from allrounder.manifest import ChatTemplate

__all__ = ["check_marks", "mark_ids", "mark_texts"]

_FLAGS = ("lstrip", "rstrip", "single_word")  # of an added token: what stands beside it matters


def mark_texts(plan: ImagePlan) -> list[tuple[str | int, ...]]:
    """Returns what a plan puts in place of a placeholder, every mark of it, one image token for those of a tile.

    Nothing where there are image tokens alone.
    """
    edges = [plan.size, plan.layout.edge] if isinstance(plan.layout, LongestEdge) else [plan.size]
    images = [plan_images(plan, [(edge, edge)])[0] for edge in dict.fromkeys(edges)]
    texts = [tuple(1 if isinstance(part, int) else part for part in image.content) for image in images]
    return [text for text in texts if any(isinstance(part, str) for part in text)]


def mark_ids(processor: Any, texts: list[tuple[str | int, ...]]) -> frozenset[int]:
    """Returns the ids of `mark_texts` in a processor's tokenizer."""
    return frozenset(number for text in texts for number in _stock_ids(processor, text))


def check_marks(processor: Any, tokenizer_json: str, chat: ChatTemplate, texts: list[tuple[str | int, ...]]) -> None:
    """Checks that the ids of `mark_texts` are Hugging Face's, wherever they stand.

    Raises:
        ModelUnsupported: They are not.
    """
    if not texts:
        return
    encoder, added = ChatEncoder(tokenizer_json, chat), json.loads(tokenizer_json)["added_tokens"]
    controls = {token["id"]: token for token in added if token["special"]}
    for text in texts:
        ours, stock = encoder.image_ids(text), _stock_ids(processor, text)
        if ours != stock:
            _refuse(f"{_written(processor, text)!r}", ours, stock)
        for number in (ours[0], ours[-1]):
            if number not in controls or any(controls[number][flag] for flag in _FLAGS):
                wanted = f"a control token without {', '.join(_FLAGS)}"
                _refuse("what stands beside an image", controls.get(number, number), wanted)


def _stock_ids(processor: Any, text: tuple[str | int, ...]) -> list[int]:
    return processor.tokenizer(_written(processor, text), add_special_tokens=False)["input_ids"]


def _written(processor: Any, text: tuple[str | int, ...]) -> str:
    return "".join(part if isinstance(part, str) else processor.image_token * part for part in text)


def _refuse(what: str, got: object, wanted: object) -> None:
    raise ModelUnsupported(
        "the tokenizer cannot tokenise what stands beside an image on its own",
        where=f"tokenizer.json: {what}",
        got=got,
        wanted=wanted,
        remedy="use the tokenizer that belongs to this checkpoint",
    )
