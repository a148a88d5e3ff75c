"""Stop texts: ending an answer at a given string.

What it is: a filter on pieces of text that holds back what may yet become a stop text.
What it knows: strings. What it does not know: tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from allrounder.errors import InputInvalid

__all__ = ["StopTexts"]


class StopTexts:
    """Cuts a text before the first stop text in it, whatever the pieces in which it arrives.

    Args:
        texts: The stop texts; may be empty.

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
