"""Control tokens, sealed: the tokenizer.json from which no runtime lets user text become one.

What it is: `sealed_tokenizer`, the model's tokenizer with ``"special": true`` on every control token, whatever flags it
had; the rule of `allrounder.chat.tokenization` goes by that flag alone. `named_ids` reads what a model's configs name.
What it knows: which tokens control a model. What it does not know: how text becomes ids.

Control tokens are the image token, what the tokenizer calls special or names by role, added tokens that are spelled as
such by convention, and *marks*: tokens that the configs name by id, or that the chat template writes. That is what
transformers calls control tokens; but words, signs and white space are no marks, as templates hold them as plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from jinja2 import Environment
from tokenizers import Tokenizer

from allrounder.chat.messages import Message, question
from allrounder.chat.template import render
from allrounder.errors import InputInvalid
from allrounder.manifest import ChatTemplate

__all__ = ["named_ids", "sealed_tokenizer", "template_tokens"]

_KNOWN = re.compile(r"<[|\uff5c].+[|\uff5c]>|</?s>|[<\[](bos|eos|pad|unk|sep|cls|mask)[>\]]", re.IGNORECASE | re.DOTALL)
_ADDED_MARK = re.compile(r"(?=.*\w)(?=.*[^\w\s])", re.DOTALL)  # neither a word nor signs alone
_PLAIN_MARK = re.compile(
    r"<(?!0x[0-9A-F]{2}>).+>|\[.+\]", re.DOTALL
)  # of the vocabulary's own: in brackets, and no byte
_NAMES_ID = re.compile(r"_token_(id|index)$")
_TURNS: tuple[list[Message], ...] = (  # what a template is asked to write; it may refuse some
    question("a"),
    [{"role": "system", "content": [{"type": "text", "text": "a"}]}, *question("a")],
    [*question("a"), {"role": "assistant", "content": [{"type": "text", "text": "a"}]}, *question("a", images=0)],
)
_ALONE = {"single_word": False, "lstrip": False, "rstrip": False}
_SEALED = {"special": True, "normalized": False}  # the library's decoder leaves out no special that is normalized


def named_ids(directory: Path) -> frozenset[int]:
    """Returns the token ids that a model's configs name: of its image, of beginnings, ends and padding.

    A file that is no JSON names none; whoever needs it says so.
    """

    def found(node: Any) -> Iterator[int]:
        for key, value in node.items() if isinstance(node, dict) else ():
            if _NAMES_ID.search(key):
                yield from (each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int))
            else:
                yield from found(value)

    ids: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        with suppress(OSError, ValueError):
            ids.update(found(json.loads((directory / name).read_text(encoding="utf-8"))))
    return frozenset(ids)


def sealed_tokenizer(processor: Any, chat: ChatTemplate, named: Collection[int] = ()) -> str:
    """Returns the text of tokenizer.json with every control token special.

    Args:
        processor: A `Processor`, or a stock one.
        chat: Its chat template.
        named: Token ids that the model's configs name.
    """
    backend = processor.tokenizer.backend_tokenizer
    whole = json.loads(backend.to_str())
    added = {token["content"]: token for token in whole["added_tokens"]}
    controls = _controls(processor, chat, named)
    if all(token in added and added[token].items() >= _SEALED.items() for token in controls):
        return backend.to_str(pretty=True)
    for token, number in controls.items():
        if token not in added:  # of the model's own vocabulary, where it has this id
            whole["added_tokens"].append({"id": number, "content": token, **_ALONE})
    for token in whole["added_tokens"]:
        token.update(_SEALED if token["content"] in controls else {})
    return Tokenizer.from_str(json.dumps(whole)).to_str(pretty=True)


def template_tokens(template: str) -> Iterator[tuple[str, str]]:
    """Yields kind and text of every word of a Jinja template: ``data``, ``string``, ``name``, ..."""
    for _, kind, text in Environment(autoescape=True).lex(template):
        yield kind, text


def _controls(processor: Any, chat: ChatTemplate, named: Collection[int]) -> dict[str, int]:
    """Returns the control tokens with their ids."""
    tokenizer = processor.tokenizer
    by_role = {
        processor.image_token,
        *tokenizer.all_special_tokens,
        *(getattr(tokenizer, "chat_control_tokens", None) or ()),
    }
    marked = {*named, *(number for text in _written(chat) for number in tokenizer(text)["input_ids"])}
    # What the template can write, for other turns and roles as well.
    literals = "\0".join(text for kind, text in template_tokens(chat.template) if kind in ("data", "string"))
    added = tokenizer.get_added_vocab()

    def is_control(token: str, number: int) -> bool:
        if token in by_role or (token in added and _KNOWN.fullmatch(token)):
            return True
        mark = _ADDED_MARK.match(token) if token in added else _PLAIN_MARK.fullmatch(token)
        return bool(mark) and (number in marked or (token in added and token in literals))

    return {token: number for token, number in tokenizer.get_vocab().items() if is_control(token, number)}


def _written(chat: ChatTemplate) -> Iterator[str]:
    """Yields conversations as the template writes them."""
    for messages in _TURNS:
        with suppress(InputInvalid):
            yield render(chat, messages)
