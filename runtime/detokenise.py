"""From tokens to text, piece by piece.

What it is: a decoder that gives out text as tokens come in, never a broken character.
What it knows: a function from ids to text. What it does not know: which tokens stop an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["Detokeniser"]

_BROKEN = "\N{REPLACEMENT CHARACTER}"


class Detokeniser:
    """Gives the text of a growing row of tokens; the pieces put together are the text of all of them.

    A piece is held back while it ends in the middle of a character (the decoder then writes U+FFFD). Each piece is
    the difference between two texts that begin at the same token, so decoders that treat the first token
    differently (a leading space is stripped) need no special case.

    Args:
        decode: From token ids to text, special tokens left out.
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
