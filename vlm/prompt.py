"""Questions to token ids.

What it is: `PromptEncoder`, the rule by which a question becomes prefix and suffix ids, and `model_prompt`.
What it knows: the frozen template (`allrounder.manifest.PromptTemplate`) and a tokenizer.json.
What it does not know: chat templates (see `allrounder.vlm.llava.template`), models, images.

The rule, which the runtimes implement as well (all of it needs the ``tokenizers`` library alone):

1. The prompt as text is ``before_image + <image> + after_image + question + after_question``. What stands before
   the image gives the prefix ids, what stands after it the suffix ids; the image token itself is in neither.
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
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from allrounder.errors import InputInvalid
from allrounder.manifest import PromptTemplate

if TYPE_CHECKING:
    from allrounder.vlm.model import LoadedModel

__all__ = ["PromptBatch", "PromptEncoder", "model_prompt"]


class PromptBatch(NamedTuple):
    """B prompts: ``[prefix | N image tokens | suffix]``."""

    prefix_ids: Tensor  # int64 [B, P], equal rows
    suffix_ids: Tensor  # int64 [B, S], padded on the right with 0
    suffix_lengths: Tensor  # int64 [B], 1 to S

    def row(self, index: int) -> PromptBatch:
        """Returns one prompt alone, without padding."""
        length = int(self.suffix_lengths[index])
        return PromptBatch(
            self.prefix_ids[index : index + 1],
            self.suffix_ids[index : index + 1, :length],
            self.suffix_lengths[index : index + 1],
        )

    def to(self, device: torch.device | str) -> PromptBatch:
        """Returns the same prompts on another device."""
        return PromptBatch(*(tensor.to(device) for tensor in self))


class PromptEncoder:
    """Encodes questions by the rule above.

    Args:
        tokenizer_json: The text of tokenizer.json.
        template: The frozen chat template.
    """

    def __init__(self, tokenizer_json: str, template: PromptTemplate) -> None:
        self._template = template
        self._first = _plain_tokenizer(tokenizer_json)
        self._later = _plain_tokenizer(_continuation(tokenizer_json))
        added: list[dict[str, Any]] = json.loads(tokenizer_json)["added_tokens"]
        self._specials = {token["content"]: int(token["id"]) for token in added if token["special"]}
        longest_first = sorted(map(re.escape, self._specials), key=len, reverse=True)
        self._barred = _barred(tokenizer_json, self._specials)
        self._cut_at = re.compile(f"({'|'.join(longest_first)})") if longest_first else None
        self.prefix_ids: tuple[int, ...] = tuple(self._prefix())

    def suffix_ids(self, question: str) -> list[int]:
        """Returns the ids after the image; the question may hold any text.

        Raises:
            InputInvalid: The tokenizer cannot write it without a control token.
        """
        pieces = [*self._cut(self._template.after_image), (question, None), *self._cut(self._template.after_question)]
        ids = self._encode(pieces, begins=False)
        written = Counter(special for _, special in pieces if special in self._barred)
        if formed := Counter(each for each in ids if each in self._barred) - written:
            raise InputInvalid(
                "this tokenizer cannot write a control token's text as plain text",
                where="question",
                got=", ".join(self._barred[each] for each in formed),
                remedy="take it out of the question",
            )
        return ids

    def batch(self, questions: Sequence[str]) -> PromptBatch:
        """Returns the prompts of one or more questions, on the CPU.

        Raises:
            InputInvalid: No question at all, or one whose suffix is empty.
        """
        rows = [self.suffix_ids(question) for question in questions]
        if not rows or not all(rows):
            raise InputInvalid(
                "nothing to ask", got=list(questions), wanted="at least one prompt with text after the image"
            )
        lengths = [len(row) for row in rows]
        padded = [row + [0] * (max(lengths) - len(row)) for row in rows]
        prefix = torch.tensor([self.prefix_ids] * len(rows), dtype=torch.int64).reshape(len(rows), -1)
        return PromptBatch(prefix, torch.tensor(padded), torch.tensor(lengths))

    def _prefix(self) -> list[int]:
        leading: list[int] = []
        if self._template.prefix_special:
            example = self._first.encode("a", add_special_tokens=True)
            count = example.special_tokens_mask.index(0)
            leading = example.ids[:count]
        return leading + self._encode(self._cut(self._template.before_image), begins=True)

    def _cut(self, text: str) -> list[tuple[str, int | None]]:
        """Returns the text in pieces, each special with its id, each plain one with None."""
        pieces = self._cut_at.split(text) if self._cut_at else [text]
        return [(piece, self._specials.get(piece)) for piece in pieces if piece]

    def _encode(self, pieces: list[tuple[str, int | None]], *, begins: bool) -> list[int]:
        """Returns the ids of pieces, plain neighbours joined; ``begins``: they stand at the start of the prompt."""
        ids: list[int] = []
        tokenizer = self._first if begins else self._later
        for special, group in groupby(pieces, key=lambda piece: piece[1]):
            if special is None:
                stretch = "".join(text for text, _ in group)
                ids += tokenizer.encode(stretch, add_special_tokens=False).ids
            else:
                ids += [special for _ in group]
            tokenizer = self._later
        return ids


def model_prompt(vlm: LoadedModel, questions: Sequence[str]) -> PromptBatch:
    """Returns the prompts of questions for a model, on the model's device.

    Raises:
        InputInvalid: There is no question.
    """
    encoder = PromptEncoder(vlm.tokenizer_json, vlm.template)
    return encoder.batch(questions).to(vlm.model.device)


def _plain_tokenizer(tokenizer_json: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.encode_special_tokens = True  # text that spells a special token stays text
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _barred(tokenizer_json: str, specials: dict[str, int]) -> dict[int, str]:
    """Returns the specials that no plain stretch may hold, by id."""
    model: dict[str, Any] = json.loads(tokenizer_json)["model"]
    unknown = model.get("unk_id", specials.get(model.get("unk_token") or ""))
    return {number: text for text, number in specials.items() if number != unknown and any(map(str.isalnum, text))}


def _continuation(tokenizer_json: str) -> str:
    def edit(node: dict[str, Any]) -> dict[str, Any]:
        return {**node, "prepend_scheme": "never"} if node.get("prepend_scheme") == "first" else node

    # Only the pre-tokenizer is edited: the decoder has the same key, and the vocabulary might hold it as a token.
    whole = json.loads(tokenizer_json)
    whole["pre_tokenizer"] = json.loads(json.dumps(whole["pre_tokenizer"]), object_hook=edit)
    return json.dumps(whole)
