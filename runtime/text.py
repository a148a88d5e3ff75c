"""The text of an answer, piece by piece: from tokens, never a broken character, and up to a stop text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from allrounder.errors import InputInvalid

__all__ = ["Detokeniser", "StopTexts"]

_BROKEN = "\N{REPLACEMENT CHARACTER}"


class Detokeniser:
    """Gives the text of a growing row of tokens; the pieces put together are the text of all of them.

    A piece is held back while it ends in the middle of a character (the decoder then writes U+FFFD). Each piece is
    the difference between two texts that begin at the same token, so decoders that treat the first token
    differently (a leading space is stripped) need no special case.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._context: list[int] = []  # tokens whose text is already out, kept because the next ones may lean on them
        self._pending: list[int] = []

    def add(self, token: int) -> str:
        """Returns the text that ``token`` completes; empty where the character goes on."""
        self._pending.append(token)
        before, after = self._texts()
        if len(after) <= len(before) or after.endswith(_BROKEN):
            return ""
        self._context, self._pending = self._pending, []
        return after[len(before) :]

    def finish(self) -> str:
        """Returns what is still held back; bytes that never became a character are U+FFFD."""
        before, after = self._texts()
        self._context, self._pending = self._pending, []
        return after[len(before) :]

    def _texts(self) -> tuple[str, str]:
        return self._decode(self._context), self._decode(self._context + self._pending)


class StopTexts:
    """Cuts a text before the first stop text in it, whatever the pieces in which it arrives.

    Raises:
        InputInvalid: One of them is empty or no string.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = _taken(texts)
        self._held = ""
        self.reached = False

    def add(self, piece: str) -> str:
        """Returns what is certain to stay; sets `reached` where a stop text is complete."""
        text = self._held + piece
        found = [(start + len(stop), start) for stop in self.texts if (start := text.find(stop)) >= 0]
        if found:
            self.reached, self._held = True, ""
            return text[: min(found)[1]]  # the first that was complete, so that pieces make no difference
        hold = max((_overlap(text, stop) for stop in self.texts), default=0)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]

    def finish(self) -> str:
        """Returns what was held back and did not become a stop text."""
        held, self._held = self._held, ""
        return held


def _taken(texts: object) -> tuple[str, ...]:
    """Returns a copy; what can be read only once is read only here."""
    if isinstance(texts, Iterable) and not isinstance(texts, str):
        taken = tuple(texts)
        if all(isinstance(text, str) and text for text in taken):
            return taken
    raise InputInvalid("stop texts are non-empty strings", where="stop", got=repr(texts), wanted="('\\n',)")


def _overlap(text: str, stop: str) -> int:
    """Returns the length of the longest proper beginning of ``stop`` with which ``text`` ends."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
