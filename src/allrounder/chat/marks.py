"""Which of a rendered conversation is the template's, and which is its callers' text.

What it is: `cut_rendering`, the rendering in pieces: control tokens that the template wrote, and plain text.
What it knows: that a caller's text never becomes a control token, not even together with its neighbours.

The conversation is rendered a second time with marks in its texts: private characters that stand in no text and not in
the template. One stands before the first and one behind the last character of a text that is not blank, and one inside
every control token's spelling in it. Without its marks the second rendering must be the first. It is cut at control
tokens; a caller's spelling has a mark in it and is not found. A template that looks at the ends of a text is rendered
with marks inside spellings alone, where no end of a text can be part of a control token.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from itertools import chain
from typing import NamedTuple

from allrounder.chat.messages import Message, Messages, as_parts, change_texts, plain_messages, texts_of
from allrounder.chat.template import render
from allrounder.errors import InputInvalid
from allrounder.manifest import ChatTemplate

__all__ = ["Controls", "Piece", "Rendering", "cut_rendering"]

Piece = tuple[str, int | None]  # text, and its id where it is a control token

_PRIVATE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE))  # code points that Unicode leaves to their users


class Rendering(NamedTuple):
    """A rendered conversation."""

    text: str
    pieces: list[Piece]  # of the text, in order
    begun: bool  # the template wrote the begin token first


class Controls:
    """Control tokens, and where they stand in a text.

    Args:
        ids: The id of each, by its text.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.ids = ids
        longest_first = "|".join(map(re.escape, sorted(ids, key=len, reverse=True))) or "(?!)"
        self._whole = re.compile(f"({longest_first})")
        self._first = re.compile(f"(?={longest_first}).", re.DOTALL)

    def cut(self, text: str) -> list[Piece]:
        """Returns the pieces of a text, leftmost first, the longest where several control tokens begin at one place."""
        return [(piece, self.ids.get(piece)) for piece in self._whole.split(text) if piece]

    def broken(self, text: str, mark: str) -> str:
        """Returns a text with a mark behind the first character of every control token in it."""
        return self._first.sub(lambda found: found[0] + mark, text)

    def touch(self, text: str) -> bool:
        """Whether a text may be part of a control token whose rest stands beside it."""
        return any(
            (text in token and text != token)
            or any(token.startswith(text[-n:]) or token.endswith(text[:n]) for n in range(1, len(token)))
            for token in self.ids
        )


class _Marks:
    """The private characters of one conversation.

    Args:
        chat: The chat template.
        texts: Those of the conversation.
        controls: Control tokens; one of a single character has no inside, and another character stands for it.
    """

    def __init__(self, chat: ChatTemplate, texts: Iterable[str], controls: Controls) -> None:
        used = set("".join([chat.template, *chat.special_tokens.values(), *texts, *controls.ids]))
        private = (chr(code) for code in chain(*_PRIVATE) if chr(code) not in used)
        self._controls, self.mark = controls, next(private)
        hidden = {token: next(private) for token in controls.ids if len(token) == 1}
        self._hide = str.maketrans(hidden)
        self._show = str.maketrans({**{other: token for token, other in hidden.items()}, self.mark: ""})

    def inside(self, text: str) -> str:
        """Returns a text with marks inside control tokens."""
        return self._controls.broken(text, self.mark).translate(self._hide)

    def around(self, text: str) -> str:
        """Returns a text with marks inside control tokens, and around what is not blank."""
        marked = self.inside(text)
        core = marked.strip()
        if not core:
            return marked + (self.mark if marked and self._controls.touch(text) else "")
        return marked.replace(core, f"{self.mark}{core}{self.mark}", 1)

    def without(self, text: str) -> str:
        """Returns a marked text without its marks."""
        return text.translate(self._show)


def cut_rendering(chat: ChatTemplate, messages: Messages, controls: Controls, now: datetime | None = None) -> Rendering:
    """Returns a conversation as text, and its pieces.

    A content that is a text alone is shown to the template as it is; where the template leaves it out, because it knows
    lists of parts alone, as a list with this one part.

    Args:
        chat: The model's chat template.
        messages: See `allrounder.chat.messages`.
        controls: The model's control tokens.
        now: The time that a template gets which asks for it; by default now.

    Raises:
        InputInvalid: See `allrounder.chat.template.render`; or the template leaves out or rewrites a text that is not
            an assistant's, or it is not clear which of the rendering is a text's.
    """
    plain, now = plain_messages(messages), now or datetime.now()  # noqa: DTZ005 - as `render` has it
    rendering, left_out = _marked(chat, plain, controls, now)
    if left_out and (parts := as_parts(plain)) != plain:
        with suppress(InputInvalid):
            other = _marked(chat, parts, controls, now)
            if other[1].total() < left_out.total():
                rendering, left_out = other
    if lost := left_out & _said([message for message in plain if message["role"] != "assistant"]):
        raise InputInvalid(
            "the model's chat template leaves a text out, or rewrites it",
            where="messages",
            got=", ".join(map(repr, lost)),
            remedy="leave the text out, or put it where the model was trained to see it",
        )
    return rendering


def _marked(
    chat: ChatTemplate, messages: list[Message], controls: Controls, now: datetime
) -> tuple[Rendering, Counter[str]]:
    """Returns the rendering, and which texts it leaves out how often, without the white space at their ends."""
    text, texts = render(chat, messages, now=now), texts_of(messages)
    marks = _Marks(chat, texts, controls)
    for way in (marks.around, marks.inside):
        if way == marks.inside and any(controls.touch(part.strip() or part) for part in texts if part):
            break
        try:
            marked = render(chat, change_texts(messages, way), now=now)
        except InputInvalid:  # which the texts themselves do not raise
            continue
        if marks.without(marked) == text:
            pieces = [(marks.without(piece), token) for piece, token in controls.cut(marked)]
            begin = chat.special_tokens.get("bos_token")
            rendering = Rendering(
                text, [piece for piece in pieces if piece[0]], bool(begin and marked.startswith(begin))
            )
            said = {part: way(part).strip() for part in texts if part.strip()}
            asked = Counter(said[part] for part in texts if part in said)
            missing = asked - Counter({shown: marked.count(shown) for shown in asked})
            return rendering, Counter({part.strip(): missing[shown] for part, shown in said.items() if missing[shown]})
    raise InputInvalid(
        "the model's chat template reads a text that spells a control token or a part of one",
        where="messages",
        got=", ".join(map(repr, texts)),
        remedy="take it out of the text",
    )


def _said(messages: list[Message]) -> Counter[str]:
    """Returns how often each text stands in messages that is not blank, without the white space at its ends."""
    return Counter(filter(None, map(str.strip, texts_of(messages))))
