"""Messages of requests to token ids, and ids of answers to text.

What it is: the tokenisation rule (`allrounder.chat.tokenization`) for a bundle's tokenizer, checked as it is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from allrounder.chat.messages import Messages
from allrounder.chat.tokenization import ChatEncoder
from allrounder.errors import BundleCorrupt, InputInvalid
from allrounder.golden import GOLDEN_TIME, TOKENIZER, GoldenPrompt, decode_golden
from allrounder.images.planning import PlannedImage
from allrounder.layout import PromptLayout, sequential_layout
from allrounder.manifest import ChatTemplate

__all__ = ["Prompter"]


class Prompter:
    """Tokenises messages and decodes answers; may be used by any number of threads.

    Args:
        tokenizer_json: The text of tokenizer.json.
        chat: The model's chat template.

    Raises:
        BundleCorrupt: Tokenizer or template cannot be read.
    """

    def __init__(self, tokenizer_json: str, chat: ChatTemplate) -> None:
        try:
            self._encoder = ChatEncoder(tokenizer_json, chat)
        except BaseException as error:
            # The library raises bare Exception, and where it panics something that is not even that.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise BundleCorrupt("tokenizer or chat template cannot be read", where=TOKENIZER, got=error) from error
        self.image_token_id = self._encoder.image_token_id

    def ids(self, messages: Messages) -> tuple[int, ...]:
        """Returns the ids of a prompt, with one placeholder per image.

        Raises:
            InputInvalid: They are no messages; the template refuses them, leaves out or reads a text, or writes
                another number of images; or the tokenizer cannot write a text without a control token.
        """
        return self._encoder.ids(messages)

    def layout(self, ids: Sequence[int], images: Sequence[PlannedImage]) -> PromptLayout:
        """Returns the layout of a prompt.

        Args:
            ids: From `ids`.
            images: What its images become.

        Raises:
            InputInvalid: There is another number of images than placeholders.
        """
        blocks = [self._encoder.image_ids(image.content) for image in images]
        return sequential_layout(ids, self._encoder.image_token_id, blocks)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ``ids`` without control tokens; ids that the tokenizer does not know have no text."""
        return self._encoder.decode(ids)

    def check(self, golden: Path) -> None:
        """Checks the golden prompts that came with the tokenizer.

        Raises:
            BundleCorrupt: They cannot be read, there are none, or messages give other ids than their prompt says.
        """
        try:
            prompts = decode_golden(golden.read_bytes())
        except (OSError, msgspec.MsgspecError) as error:
            raise BundleCorrupt("the golden prompts cannot be read", where=golden, got=error) from error
        if not prompts:
            raise BundleCorrupt("there are no golden prompts", where=golden, remedy="build the bundle again")
        for prompt in prompts:
            self._check(prompt, golden)

    def _check(self, prompt: GoldenPrompt, golden: Path) -> None:
        try:
            got: object = self._encoder.ids(prompt.messages, GOLDEN_TIME)
        except InputInvalid as error:
            got = error
        if got != prompt.input_ids:
            raise BundleCorrupt(
                "template and tokenizer give other ids than when the bundle was built",
                where=f"{golden}: {prompt.messages!r}",
                got=got,
                wanted=prompt.input_ids,
                remedy="install the `tokenizers` and `jinja2` versions of the build, or build the bundle again",
            )
