"""From a question to token ids.

What it is: the tokenisation rule with the `tokenizers` library alone, stated step by step in `vlm/prompt.py`.
What it knows: the frozen template, the tokenizer file and its golden pairs.
What it does not know: Jinja, models, limits.

In short: the prompt is ``before_image + <image> + after_image + question + after_question``. Special tokens of the
template give their ids and cut the text into stretches; the stretch around the question is tokenised as one
string, because merges reach across the seams. The question is never cut: user text never becomes a special token, and
where the tokenizer's model itself makes one of it, the question is refused.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from allrounder.errors import BundleCorrupt, InputInvalid
from allrounder.golden import TOKENIZER, decode_golden
from allrounder.manifest import PromptTemplate

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["PromptIds", "Prompter"]

Pieces = list[tuple[str, int | None]]  # text, and its id where it is a special token


class PromptIds(NamedTuple):
    """Token ids before and after the image."""

    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]


class Prompter:
    """Tokenises questions and decodes answers; may be used by any number of threads.

    Args:
        tokenizer_json: The text of tokenizer.json.
        template: The frozen chat template.

    Raises:
        BundleCorrupt: The tokenizer cannot be read.
    """

    def __init__(self, tokenizer_json: str, template: PromptTemplate) -> None:
        try:
            content: dict[str, Any] = json.loads(tokenizer_json)
            added: list[dict[str, Any]] = content["added_tokens"]
            specials = {str(token["content"]): int(token["id"]) for token in added if token["special"]}
            self._barred = _barred(content["model"], specials)
            first = _plain_tokenizer(tokenizer_json)
            later = _plain_tokenizer(_continuation(content)) if '"first"' in tokenizer_json else first
            leading = _leading(first) if template.prefix_special else ()
        except BaseException as error:
            # The library raises bare Exception, and where it panics something that is not even that.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise BundleCorrupt("the tokenizer cannot be read", where=TOKENIZER, got=error) from error
        self._later = later
        self._before = _cut(template.after_image, specials)
        self._after = _cut(template.after_question, specials)
        self._prefix = leading + _encode(_cut(template.before_image, specials), first, later)

    def ids(self, question: str) -> PromptIds:
        """Returns the ids of the prompt with ``question``.

        Raises:
            InputInvalid: The question is no text, empty, only white space, or holds half a surrogate pair; or the
                tokenizer cannot write it without a control token.
        """
        if not isinstance(question, str):
            raise InputInvalid("a question is text", where="question", got=type(question).__name__, wanted="str")
        if not question.strip():
            raise InputInvalid("the question is empty", where="question", got=repr(question), remedy="ask something")
        try:
            question.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputInvalid("the question is not valid Unicode", where="question", got=error) from error
        pieces = [*self._before, (question, None), *self._after]
        suffix = _encode(pieces, self._later, self._later)
        written = Counter(special for _, special in pieces if special in self._barred)
        if formed := Counter(each for each in suffix if each in self._barred) - written:
            raise InputInvalid(
                "this tokenizer cannot write a control token's text as plain text",
                where="question",
                got=", ".join(self._barred[each] for each in formed),
                remedy="take it out of the question",
            )
        return PromptIds(self._prefix, suffix)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ``ids`` without special tokens; ids that the tokenizer does not know have no text."""
        return self._later.decode(list(ids), skip_special_tokens=True)

    def check(self, golden: Path) -> None:
        """Checks the golden pairs that came with the tokenizer.

        Raises:
            BundleCorrupt: They cannot be read, there are none, or a question gives other ids than its pair says.
        """
        try:
            prompts = decode_golden(golden.read_bytes())
        except (OSError, msgspec.MsgspecError) as error:
            raise BundleCorrupt("the golden prompts cannot be read", where=golden, got=error) from error
        if not prompts:
            raise BundleCorrupt("there are no golden prompts", where=golden, remedy="build the bundle again")
        for prompt in prompts:
            got, wanted = self.ids(prompt.question), PromptIds(prompt.prefix_ids, prompt.suffix_ids)
            if got != wanted:
                raise BundleCorrupt(
                    "the tokenizer gives other ids than when the bundle was built",
                    where=f"{golden}: {prompt.question!r}",
                    got=got,
                    wanted=wanted,
                    remedy="install the `tokenizers` version of the build, or build the bundle again",
                )


def _plain_tokenizer(tokenizer_json: str) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.encode_special_tokens = True  # text that spells a special token stays text
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _continuation(content: dict[str, Any]) -> str:
    """Returns the tokenizer for stretches that do not begin a text: no mark of the beginning is put before them."""

    def edit(node: Any) -> Any:
        if isinstance(node, list):
            return [edit(item) for item in node]
        if not isinstance(node, dict):
            return node
        fixed = {"prepend_scheme": "never"} if node.get("prepend_scheme") == "first" else {}
        return {key: edit(value) for key, value in node.items()} | fixed

    return json.dumps({**content, "pre_tokenizer": edit(content["pre_tokenizer"])})


def _barred(model: dict[str, Any], specials: dict[str, int]) -> dict[int, str]:
    """Returns the specials that user text must not become, by id."""
    unknown = model.get("unk_id", specials.get(model.get("unk_token") or ""))
    return {number: text for text, number in specials.items() if number != unknown and any(map(str.isalnum, text))}


def _leading(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Returns the ids that the tokenizer itself puts before a text."""
    example = tokenizer.encode("a", add_special_tokens=True)
    return tuple(example.ids[: example.special_tokens_mask.index(0)])


def _cut(text: str, specials: dict[str, int]) -> Pieces:
    """Returns a segment of the template cut at special tokens, the longest where several begin at one place."""
    longest_first = "|".join(sorted(map(re.escape, specials), key=len, reverse=True))
    pieces = re.split(f"({longest_first})", text) if specials else [text]
    return [(piece, specials.get(piece)) for piece in pieces if piece]


def _encode(pieces: Pieces, first: Tokenizer, later: Tokenizer) -> tuple[int, ...]:
    """Returns the ids of ``pieces``, plain neighbours joined; ``first`` encodes one that stands at the very start."""
    ids: list[int] = []
    for position, (special, group) in enumerate(groupby(pieces, key=lambda piece: piece[1])):
        if special is None:
            tokenizer = later if position else first
            ids += tokenizer.encode("".join(text for text, _ in group), add_special_tokens=False).ids
        else:
            ids += [special for _ in group]
    return tuple(ids)
