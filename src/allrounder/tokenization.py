"""From a question to token ids: the tokenisation rule.

The rule, which C++ implements as well (`native/src/text`):

1. The prompt as text is ``before_image + <image> + after_image + question + after_question``. What is before
   the image gives the prefix ids, what is after it the suffix ids; the image token itself is in neither.
2. *Specials* are the entries of ``added_tokens`` in tokenizer.json with ``"special": true``, which a bundle's has on
   every control token (`allrounder.vlm.control_tokens`). The template's three
   segments are cut at specials, leftmost first, the longest where several begin at one place. The question
   is never cut: user text never becomes a special token, not even together with its neighbours.
3. Plain pieces that touch are joined into one *stretch*: in the suffix, the template's text up to the question, the
   question, and the template's text after it, are tokenised as ONE string, so that merges across the
   borders happen as they do when Hugging Face tokenises the whole prompt.
4. A special gives its id. A stretch gives ``encode(stretch, add_special_tokens=False)`` of a tokenizer with
   ``encode_special_tokens = True``, truncation and padding off. Empty stretches give nothing.
5. A stretch that does not begin the prompt is encoded by the *continuation* tokenizer: tokenizer.json with every
   ``"prepend_scheme": "first"`` turned into ``"never"`` (Metaspace pre-tokenizers mark the beginning of a text,
   and such a stretch is not one). That is every stretch of the suffix, and in the prefix all but one at its very start.
6. Where the template says ``prefix_special``, the prefix begins with the ids that the tokenizer itself puts before
   a text: the leading ids of ``encode("a", add_special_tokens=True)`` whose special_tokens_mask is 1.
7. A suffix with a special that the template did not write is refused: the tokenizer's model itself makes it of text.
   That goes for specials with a letter or digit in them, other than the unknown token that the model names.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from allrounder.errors import InputInvalid
from allrounder.manifest import PromptTemplate

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["PromptEncoder", "continuation", "plain_tokenizer"]

_Pieces = list[tuple[str, int | None]]  # text, and its id where it is a special token


class PromptEncoder:
    """Encodes questions by the rule above, and decodes answers; may be used by any number of threads."""

    def __init__(self, tokenizer_json: str, template: PromptTemplate) -> None:
        content: dict[str, Any] = json.loads(tokenizer_json)
        added: list[dict[str, Any]] = content["added_tokens"]
        specials = {str(token["content"]): int(token["id"]) for token in added if token["special"]}
        self._barred = _barred(content["model"], specials)
        first = plain_tokenizer(tokenizer_json)
        self._later = plain_tokenizer(continuation(content)) if '"first"' in tokenizer_json else first
        self._before = _cut(template.after_image, specials)
        self._after = _cut(template.after_question, specials)
        leading = _leading(first) if template.prefix_special else []
        self.prefix_ids = (*leading, *_encode(_cut(template.before_image, specials), first, self._later))

    def suffix_ids(self, question: str) -> list[int]:
        """Returns the ids after the image; the question may hold any text.

        Raises:
            InputInvalid: The tokenizer cannot write it without a control token.
        """
        pieces = [*self._before, (question, None), *self._after]
        ids = _encode(pieces, self._later, self._later)
        written = Counter(special for _, special in pieces if special in self._barred)
        if formed := Counter(each for each in ids if each in self._barred) - written:
            raise InputInvalid(
                "this tokenizer cannot write a control token's text as plain text",
                where="question",
                got=", ".join(self._barred[each] for each in formed),
                remedy="take it out of the question",
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ``ids`` without special tokens; ids that the tokenizer does not know have no text."""
        return self._later.decode(list(ids), skip_special_tokens=True)


def plain_tokenizer(tokenizer_json: str) -> Tokenizer:
    """Returns the tokenizer of rule 4, to which the text of a special token is text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.encode_special_tokens = True  # text that spells a special token stays text
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def continuation(content: dict[str, Any]) -> str:
    """Returns the tokenizer for stretches that do not begin a text: no mark of the beginning is put before them."""

    def edit(node: dict[str, Any]) -> dict[str, Any]:
        return {**node, "prepend_scheme": "never"} if node.get("prepend_scheme") == "first" else node

    # Only the pre-tokenizer is edited: the decoder has the same key, and the vocabulary might hold it as a token.
    edited = json.loads(json.dumps(content["pre_tokenizer"]), object_hook=edit)
    return json.dumps({**content, "pre_tokenizer": edited})


def _barred(model: dict[str, Any], specials: dict[str, int]) -> dict[int, str]:
    """Returns the specials that user text must not become, by id."""
    unknown = model.get("unk_id", specials.get(model.get("unk_token") or ""))
    return {number: text for text, number in specials.items() if number != unknown and any(map(str.isalnum, text))}


def _leading(tokenizer: Tokenizer) -> list[int]:
    """Returns the ids that the tokenizer itself puts before a text."""
    example = tokenizer.encode("a", add_special_tokens=True)
    return example.ids[: example.special_tokens_mask.index(0)]


def _cut(text: str, specials: dict[str, int]) -> _Pieces:
    """Returns a segment of the template cut at special tokens, the longest where several begin at one place."""
    longest_first = "|".join(sorted(map(re.escape, specials), key=len, reverse=True))
    pieces = re.split(f"({longest_first})", text) if specials else [text]
    return [(piece, specials.get(piece)) for piece in pieces if piece]


def _encode(pieces: _Pieces, first: Tokenizer, later: Tokenizer) -> list[int]:
    """Returns the ids of ``pieces``, plain neighbours joined; ``first`` encodes one that is at the very start."""
    ids: list[int] = []
    for position, (special, group) in enumerate(groupby(pieces, key=lambda piece: piece[1])):
        if special is None:
            tokenizer = later if position else first
            ids += tokenizer.encode("".join(text for text, _ in group), add_special_tokens=False).ids
        else:
            ids += [special for _ in group]
    return ids
