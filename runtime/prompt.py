"""Questions of requests to token ids, and ids of answers to text.

What it is: the tokenisation rule (`allrounder.tokenization`) for a bundle's tokenizer, checked as it is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from allrounder.errors import BundleCorrupt, InputInvalid
from allrounder.golden import TOKENIZER, decode_golden
from allrounder.manifest import PromptTemplate
from allrounder.tokenization import PromptEncoder

__all__ = ["PromptIds", "Prompter"]


class PromptIds(NamedTuple):
    """Token ids before and after the image."""

    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]


class Prompter:
    """Tokenises questions and decodes answers; may be used by any number of threads.

    Raises:
        BundleCorrupt: The tokenizer cannot be read.
    """

    def __init__(self, tokenizer_json: str, template: PromptTemplate) -> None:
        try:
            self._encoder = PromptEncoder(tokenizer_json, template)
        except BaseException as error:
            # The library raises bare Exception, and where it panics something that is not even that.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise BundleCorrupt("the tokenizer cannot be read", where=TOKENIZER, got=error) from error

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
        return PromptIds(self._encoder.prefix_ids, tuple(self._encoder.suffix_ids(question)))

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ``ids`` without special tokens; ids that the tokenizer does not know have no text."""
        return self._encoder.decode(ids)

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
