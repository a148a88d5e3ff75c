"""Chat templates that are literal strings alone, for runtimes that do not run Jinja.

What it is: `literals_of`, which reads the strings off small conversations, and takes them only where they make the
same text as the template of many others; `joined`, the text that they make.
What it knows: messages whose contents are lists of parts; a template may write a content that is a text alone in
another way. What it does not know: tokenizers.

A template that refuses, reads or leaves out anything is none of these: roles in any order, a second system message,
images and several texts in any message must be as good to it as others. A message without a part alone may be refused:
some templates ask what the first part is. Texts are tried that the template itself names.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise, product

from allrounder.chat.messages import Message, question
from allrounder.chat.template import compiled, render
from allrounder.errors import InputInvalid
from allrounder.manifest import ChatLiterals, ChatTemplate, RoleLiterals

__all__ = ["joined", "literals_of"]

_ROLES = ("system", "user", "assistant")
_KINDS = ("", "t", "i", "tt", "ti", "it", "ii")  # parts of a message: texts and images
_LONGEST = 4096  # of the texts that a number in the template asks for


def literals_of(chat: ChatTemplate) -> ChatLiterals | None:
    """Returns the strings that a chat template is, or None where it is more than that."""
    try:
        names, texts = _named(chat)
        if "strftime_now" in names:
            return None
        literals = _read(chat)
        same = literals is not None and all(_same(chat, literals, messages) for messages in _conversations(texts))
    except InputInvalid:  # the template refuses a conversation
        return None
    return literals if same else None


def joined(literals: ChatLiterals, image_token: str, messages: Sequence[Message]) -> str:
    """Returns a conversation as text.

    Args:
        literals: The chat template's strings.
        image_token: What is written where an image stands.
        messages: Every content is a list of parts; images are not looked at.

    Raises:
        KeyError: A role that the template does not know.
        InputInvalid: A message without a part, which the template refuses.
    """
    text = literals.begin if messages[0]["role"] == "system" else literals.begin_without_system
    for message in messages:
        role, parts = literals.roles[message["role"]], list(message["content"])
        if literals.images_first:
            parts.sort(key=lambda part: part["type"] != "image")
        for before, part in pairwise([None, *parts, None]):
            text += _between(role, before, part)
            if part is not None:
                shown = part.get("text", image_token)
                text += shown.strip() if literals.trims else shown
    return text + literals.generation


def _between(role: RoleLiterals, before: Message | None, behind: Message | None) -> str:
    if before is None:
        return _empty(role) if behind is None else getattr(role, f"before_{behind['type']}")
    return getattr(role, f"after_{before['type']}" if behind is None else f"{before['type']}_{behind['type']}")


def _empty(role: RoleLiterals) -> str:
    if role.empty is None:
        raise InputInvalid("the chat template refuses a message without a part", where="messages")
    return role.empty


def _read(chat: ChatTemplate) -> ChatLiterals | None:
    """Returns the strings that small conversations show.

    Where a user's message ends and the next one begins nothing says: any place that fits gives the same texts.
    """
    order, _ = _strings(chat, "user ti")
    _, (start, gap, _) = _strings(chat, "user t", "user t")
    for end in range(len(gap) + 1):
        if start.endswith(gap[end:]):
            with suppress(ValueError):  # the strings do not fit each other
                return _split(chat, gap[:end], images_first=order == "it")
    return None


def _split(chat: ChatTemplate, after_user: str, *, images_first: bool) -> ChatLiterals:
    _, (start, end) = _strings(chat, "user t")
    generation = _without_prefix(end, after_user)
    roles: dict[str, RoleLiterals] = {}
    for role in _ROLES:
        found = {"": [""], "ti": ["", "", "", ""]}
        refused = role != "user" and _refuses(chat, [*question("a", images=0), {"role": role, "content": []}])
        for kinds in _KINDS:
            if (not kinds and (role == "user" or refused)) or (kinds == "ti" and images_first):
                continue  # no such message; no such order
            _, (_, *within) = _strings(chat, "user t", f"{role} {kinds}")
            within[0] = _without_prefix(within[0], after_user)
            within[-1] = _without_suffix(within[-1], generation)
            found[kinds] = within
        roles[role] = RoleLiterals(
            empty=None if refused else found[""][0],
            before_text=found["t"][0],
            before_image=found["i"][0],
            text_text=found["tt"][1],
            text_image=found["ti"][1],
            image_text=found["it"][1],
            image_image=found["ii"][1],
            after_text=found["t"][-1],
            after_image=found["i"][-1],
        )
    _, (with_system, _) = _strings(chat, "system t")
    return ChatLiterals(
        begin=_without_suffix(with_system, roles["system"].before_text),
        begin_without_system=_without_suffix(start, roles["user"].before_text),
        generation=generation,
        images_first=images_first,
        trims=" . " not in render(chat, [{"role": "user", "content": [{"type": "text", "text": " . "}]}]),
        roles=roles,
    )


def _strings(chat: ChatTemplate, *messages: str) -> tuple[str, list[str]]:
    """Returns the kinds of the parts in the order in which they are written, and what is written around them.

    Args:
        chat: The chat template.
        messages: Each a role and the kinds of its parts: "user it".

    Raises:
        InputInvalid: The template refuses them, or writes other parts.
    """
    mark = next(char for char in map(chr, range(0xE000, 0xF900)) if char not in chat.template)
    conversation: list[Message] = []
    for role, kinds in (message.split(" ") for message in messages):
        parts = [{"type": "text", "text": mark} if kind == "t" else {"type": "image"} for kind in kinds]
        conversation.append({"role": role, "content": parts})
    pieces = re.split(f"({mark}|{re.escape(chat.image_token)})", render(chat, conversation))
    order = "".join("t" if piece == mark else "i" for piece in pieces[1::2])
    if sorted(order) != sorted("".join(message.split(" ")[1] for message in messages)):
        raise InputInvalid("the template leaves a part out", where="messages", got=order, wanted=messages)
    return order, pieces[::2]


def _without_prefix(text: str, prefix: str) -> str:
    if not text.startswith(prefix):
        raise ValueError(text)
    return text[len(prefix) :]


def _without_suffix(text: str, suffix: str) -> str:
    if not text.endswith(suffix):
        raise ValueError(text)
    return text[: len(text) - len(suffix)]


def _same(chat: ChatTemplate, literals: ChatLiterals, messages: list[Message]) -> bool:
    if any(not message["content"] and literals.roles[message["role"]].empty is None for message in messages):
        return _refuses(chat, messages)
    return render(chat, messages) == joined(literals, chat.image_token, messages)


def _refuses(chat: ChatTemplate, messages: list[Message]) -> bool:
    try:
        render(chat, messages)
    except InputInvalid:
        return True
    return False


def _named(chat: ChatTemplate) -> tuple[set[str], list[str]]:
    """Returns the names in a template, and texts at which it may look: its constants, and texts of such a length."""
    from jinja2 import nodes

    tree = compiled(chat.template).environment.parse(chat.template)
    constants = {str(node.value) for node in tree.find_all(nodes.Const)} | {chat.image_token}
    lengths = {int(each) for each in constants if each.isdecimal() and int(each) <= _LONGEST}
    texts = sorted(constants | set(chat.special_tokens.values())) + ["x" * (length + 1) for length in sorted(lengths)]
    return {node.name for node in tree.find_all(nodes.Name)}, texts


def _conversations(texts: list[str]) -> Iterator[list[Message]]:
    """Yields what the strings must hold for: every role beside every other, every place of parts, odd texts."""
    draw = random.Random(0)
    pool = ["red?", "", " ", " b ", "\n\nc\n", "\tWhat is it, and why?  ", "'\"<b>&{{ d }}", *texts]
    for first, second, kinds in product(_ROLES, _ROLES, _KINDS):
        yield [_message(first, "t", pool, draw), _message(second, kinds, pool, draw)]
    for roles in product(_ROLES, _ROLES, _ROLES):
        yield [_message(role, draw.choice(_KINDS), pool, draw) for role in roles]
    for text, role in product(texts, _ROLES):
        yield [_message(role, "t", [text, f"a{text}b", f" {text} "], draw), _message("user", "it", pool, draw)]
    for _ in range(100):
        count = draw.randint(1, 6)
        shapes = [(draw.choice(_ROLES), "".join(draw.choices("ti", k=draw.randint(0, 5)))) for _ in range(count)]
        yield [_message(role, kinds, pool, draw) for role, kinds in shapes]


def _message(role: str, kinds: str, pool: list[str], draw: random.Random) -> Message:
    parts = [{"type": "text", "text": draw.choice(pool)} if kind == "t" else {"type": "image"} for kind in kinds]
    if role == "user" and not any(part["type"] == "image" or part["text"].strip() for part in parts):
        parts.append({"type": "text", "text": "what?"})
    return {"role": role, "content": parts}
