"""Whether tokenizer and embedding table belong together.

A table with more rows than the tokenizer has ids is fine.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer

from allrounder.chat.tokenization import ChatEncoder
from allrounder.errors import ModelUnsupported
from allrounder.manifest import ChatTemplate

__all__ = ["check_vocabulary"]

_NAMED = 4  # tokens that an error names


def check_vocabulary(tokenizer_json: str, chat: ChatTemplate, stop_ids: Iterable[int], rows: int) -> None:
    """Checks that every id that a prompt or an answer may hold has a row in the embedding table.

    Args:
        tokenizer_json: The text of tokenizer.json, control tokens sealed.
        chat: The chat template.
        stop_ids: What ends an answer.
        rows: Of the embedding table.

    Raises:
        ModelUnsupported: An id beyond the table, which would end a request in an error of the engine.
    """
    known = Tokenizer.from_str(tokenizer_json).get_vocab(with_added_tokens=True)
    _refuse("tokenizer.json", {text: token for text, token in known.items() if token >= rows}, rows)
    leading = ChatEncoder(tokenizer_json, chat).leading_ids
    _refuse("tokenizer.json: post_processor", {str(token): token for token in leading if token >= rows}, rows)
    _refuse("eos_token_id", {str(token): token for token in stop_ids if token >= rows}, rows)


def _refuse(where: str, beyond: dict[str, int], rows: int) -> None:
    if beyond:
        first = sorted(beyond.items(), key=lambda item: item[1])[:_NAMED]
        raise ModelUnsupported(
            "ids without a row in the embedding table",
            where=where,
            got=", ".join(f"{text!r} = {token}" for text, token in first)
            + (f" and {len(beyond) - _NAMED} more" if len(beyond) > _NAMED else ""),
            wanted=f"0 to {rows - 1}",
            remedy="use the tokenizer of this checkpoint, or give the model the rows it was trained with "
            "(resize_token_embeddings) and save it again",
        )
