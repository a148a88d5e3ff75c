"""From messages to token ids: the tokenisation rule.

What it is: `ChatEncoder`, which makes the ids of a conversation, for building and for answering alike.
What it knows: the chat template and a tokenizer.json. What it does not know: models, limits, how many tokens an image
gives: each image is one placeholder.

The rule:

1. The prompt as text is what the chat template renders (`allrounder.chat.template`).
2. *Control tokens* are the entries of ``added_tokens`` in tokenizer.json with ``"special": true``, which a bundle's has
   on every control token (`allrounder.vlm.control_tokens`). The prompt is cut at those that the template wrote,
   leftmost first, the longest where several begin at one place. A caller's text is never cut: it never becomes a
   control token, not even together with its neighbours (`allrounder.chat.marks`).
3. What stands between two cuts is one *stretch*, the template's text and its callers' alike, so that merges across
   their borders happen as they do when Hugging Face tokenises the whole prompt.
4. A control token gives its id. A stretch gives ``encode(stretch, add_special_tokens=False)`` of a tokenizer with
   ``encode_special_tokens = True``, truncation and padding off.
5. A stretch that does not begin the prompt is encoded by the *continuation* tokenizer: tokenizer.json with every
   ``"prepend_scheme": "first"`` turned into ``"never"`` (Metaspace pre-tokenizers mark the beginning of a text,
   and such a stretch is not one).
6. Unless the template wrote the begin token first, the prompt begins with the ids that the tokenizer itself puts before
   a text: the leading ids of ``encode("a", add_special_tokens=True)`` whose special_tokens_mask is 1.
7. A prompt with a control token that the template did not write is refused: the tokenizer's model itself makes it of
   text. That goes for those with a letter or digit in them, other than the unknown token that the model names.
8. There are as many placeholders as images.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from allrounder.chat.marks import Controls, Piece, cut_rendering
from allrounder.chat.messages import Message, Messages, as_parts, plain_messages
from allrounder.chat.template import compiled
from allrounder.errors import InputInvalid
from allrounder.manifest import ChatTemplate

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["ChatEncoder", "continuation", "plain_tokenizer"]


class ChatEncoder:
    """Encodes conversations by the rule above, and decodes answers; may be used by any number of threads.

    Args:
        tokenizer_json: The text of tokenizer.json.
        chat: The model's chat template.

    Raises:
        ValueError, KeyError: The tokenizer has no image token; the libraries raise their own errors as well.
    """

    def __init__(self, tokenizer_json: str, chat: ChatTemplate) -> None:
        content: dict[str, Any] = json.loads(tokenizer_json)
        added: list[dict[str, Any]] = content["added_tokens"]
        ids = {str(token["content"]): int(token["id"]) for token in added if token["special"]}
        compiled(chat.template)
        self._chat, self._controls = chat, Controls(ids)
        self._barred = _barred(content["model"], ids)
        self._first = plain_tokenizer(tokenizer_json)
        self._later = plain_tokenizer(continuation(content)) if '"first"' in tokenizer_json else self._first
        self.leading_ids = tuple(_leading(self._first))  # what the tokenizer itself puts before a text
        self.image_token_id = ids[chat.image_token]

    def ids(self, messages: Messages, now: datetime | None = None) -> tuple[int, ...]:
        """Returns the ids of a prompt, with one placeholder per image.

        Args:
            messages: See `allrounder.chat.messages`; images are not looked at.
            now: The time that a template gets which asks for it; by default now.

        Raises:
            InputInvalid: They are no messages; the template refuses them, leaves out or reads a text, or writes
                another number of images; or the tokenizer cannot write a text without a control token.
        """
        plain = plain_messages(messages)
        rendering = cut_rendering(self._chat, plain, self._controls, now)
        written = Counter(token for _, token in rendering.pieces if token is not None)
        self._check_images(written[self.image_token_id], plain)
        leading = () if rendering.begun else self.leading_ids
        ids = tuple(self._encoded(rendering.pieces))
        if formed := Counter(each for each in ids if each in self._barred) - written:
            raise InputInvalid(
                "this tokenizer cannot write a control token's text as plain text",
                where="messages",
                got=", ".join(self._barred[each] for each in formed),
                remedy="take it out of the text",
            )
        return (*leading, *ids)

    def image_ids(self, content: Iterable[str | int]) -> list[int]:
        """Returns the ids in place of a placeholder: those of texts, and placeholders of each image token.

        Such text begins and ends with control tokens, so that its ids are the same wherever it stands.
        """
        ids: list[int] = []
        for part in content:
            if isinstance(part, int):
                ids += [self.image_token_id] * part
                continue
            for text, token in self._controls.cut(part):
                ids += [token] if token is not None else self._later.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ``ids`` without control tokens; ids that the tokenizer does not know have no text."""
        return self._later.decode(list(ids), skip_special_tokens=True)

    def _encoded(self, pieces: Iterable[Piece]) -> Iterable[int]:
        for position, (text, token) in enumerate(pieces):
            if token is not None:
                yield token
            else:
                yield from (self._later if position else self._first).encode(text, add_special_tokens=False).ids

    def _check_images(self, places: int, messages: list[Message]) -> None:
        parts = [part for message in as_parts(messages) for part in message["content"]]
        if (images := sum(part["type"] == "image" for part in parts)) != places:
            raise InputInvalid(
                "the model's chat template writes another number of images than the messages hold",
                where="messages",
                got=f"{places} times {self._chat.image_token!r}",
                wanted=f"{images}, one per image part",
                remedy="put images where the model was trained to see them, and none where it takes none",
            )


def plain_tokenizer(tokenizer_json: str) -> Tokenizer:
    """Returns the tokenizer of rule 4, to which the text of a control token is text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.encode_special_tokens = True  # text that spells a special token stays text
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def continuation(content: dict[str, Any]) -> str:
    """Returns the tokenizer for stretches that do not begin a text: no mark of the beginning is put before them."""

    def edit(node: Any) -> Any:
        if isinstance(node, list):
            return [edit(item) for item in cast("list[Any]", node)]
        if not isinstance(node, dict):
            return node
        given = cast("dict[str, Any]", node)
        fixed = {"prepend_scheme": "never"} if given.get("prepend_scheme") == "first" else {}
        return {key: edit(value) for key, value in given.items()} | fixed

    return json.dumps({**content, "pre_tokenizer": edit(content["pre_tokenizer"])})


def _barred(model: dict[str, Any], specials: dict[str, int]) -> dict[int, str]:
    """Returns the specials that text must not become, by id."""
    unknown = model.get("unk_id", specials.get(model.get("unk_token") or ""))
    return {number: text for text, number in specials.items() if number != unknown and any(map(str.isalnum, text))}


def _leading(tokenizer: Tokenizer) -> list[int]:
    """Returns the ids that the tokenizer itself puts before a text."""
    example = tokenizer.encode("a", add_special_tokens=True)
    return example.ids[: example.special_tokens_mask.index(0)]
