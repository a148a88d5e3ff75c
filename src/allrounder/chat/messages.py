"""Messages: what a caller asks, checked and taken apart.

What it is: `question`, the short form; `read_messages`, which takes the images out; `plain_messages`, what a chat
template is shown. A message is ``{"role": "user", "content": ...}``; its content is a text, or a list of
``{"type": "text", "text": "..."}`` and ``{"type": "image", "image": ...}`` in any order. An image stands under
``image``, ``url`` or ``path``, as in transformers.
What it does not know: templates, tokenizers, how an image is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard, cast

from allrounder.errors import InputInvalid

__all__ = [
    "Conversation",
    "Message",
    "Messages",
    "as_parts",
    "change_texts",
    "plain_messages",
    "question",
    "read_messages",
    "texts_of",
]

Message = dict[str, Any]
Messages = Sequence[Mapping[str, Any]]

_IMAGE_KEYS = ("image", "url", "path")
_SHOWN = "image"  # what a template sees in an image's place: a path is a caller's text as well
_WANTED = '{"type": "text", "text": "..."} or {"type": "image", "image": ...}'


class Conversation(NamedTuple):
    """A request's messages without its images, and the images in the order of their places."""

    messages: list[Message]
    images: tuple[Any, ...]  # as the caller gave them


def question(text: str, images: int = 1) -> list[Message]:
    """Returns one user turn: places of ``images`` images, then the text.

    Raises:
        InputInvalid: The question is no text, empty, only white space, or holds half a surrogate pair.
    """
    _check_text(text, "question")
    if not text.strip():
        raise InputInvalid("the question is empty", where="question", got=repr(text), remedy="ask something")
    parts: list[Message] = [{"type": "image"} for _ in range(images)]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def read_messages(messages: Messages) -> Conversation:
    """Checks messages, copies them, and takes their images out.

    Raises:
        InputInvalid: They are none, or an image's part has no image; names the place, as ``messages[2].content[0]``.
    """
    images: list[Any] = []

    def take(part: Mapping[str, Any], where: str) -> None:
        found = [part[key] for key in _IMAGE_KEYS if key in part]
        if not found:
            raise InputInvalid(
                "an image part without an image",
                where=where,
                got=sorted(part),
                wanted='{"type": "image", "image": ...}',
            )
        images.extend(found)

    return Conversation(_copied(messages, take), tuple(images))


def plain_messages(messages: Messages) -> list[Message]:
    """Returns a copy of messages as a chat template sees them: plain data, with a word in place of each image.

    Raises:
        InputInvalid: They are no messages; names the place.
    """
    return _copied(messages, lambda _part, _where: None)


def texts_of(messages: Sequence[Message]) -> list[str]:
    """Returns the texts of plain messages, in order."""
    return [part["text"] for message in as_parts(messages) for part in message["content"] if "text" in part]


def as_parts(messages: Sequence[Message]) -> list[Message]:
    """Returns plain messages with every content a list of parts."""

    def parts(content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content

    return [{**message, "content": parts(message["content"])} for message in messages]


def change_texts(messages: Sequence[Message], change: Callable[[str], str]) -> list[Message]:
    """Returns plain messages with ``change`` of every text in its place."""

    def changed(content: Any) -> Any:
        if isinstance(content, str):
            return change(content)
        return [{**part, "text": change(part["text"])} if "text" in part else part for part in content]

    return [{**message, "content": changed(message["content"])} for message in messages]


def _copied(messages: Messages, take: Callable[[Mapping[str, Any], str], None]) -> list[Message]:
    if not _is_list(messages) or not messages:
        raise InputInvalid(
            "no messages",
            where="messages",
            got=repr(messages) if _is_list(messages) else type(messages).__name__,
            wanted='a list such as [{"role": "user", "content": "..."}]',
        )
    return [_message(message, f"messages[{index}]", take) for index, message in enumerate(messages)]


def _message(message: Any, where: str, take: Callable[[Mapping[str, Any], str], None]) -> Message:
    if not isinstance(message, Mapping):
        raise InputInvalid("a message is a dict", where=where, got=type(message).__name__, wanted="role and content")
    given = cast("Mapping[str, Any]", message)
    if set(given) != {"role", "content"}:
        raise InputInvalid(
            "a message has a role and a content, and nothing else",
            where=where,
            got=", ".join(map(repr, given)) or "no key",
            wanted="'role', 'content'",
        )
    role, content = given["role"], given["content"]
    if not isinstance(role, str) or not (role.isascii() and role.isidentifier()):
        raise InputInvalid("no role", where=f"{where}.role", got=repr(role), wanted="system, user or assistant")
    where = f"{where}.content"
    if isinstance(content, str):
        _check_text(content, where)
        copied: str | list[Message] = str(content)
        empty = not copied.strip()
    elif _is_list(content):
        copied = [_part(part, f"{where}[{index}]", take) for index, part in enumerate(content)]
        empty = not any(part["type"] == "image" or part["text"].strip() for part in copied)
    else:
        raise InputInvalid(
            "no content", where=where, got=type(content).__name__, wanted=f"a text, or a list of {_WANTED}"
        )
    if empty and role == "user":
        raise InputInvalid("the message is empty", where=where, got=repr(content), remedy="ask something")
    return {"role": str(role), "content": copied}


def _part(part: Any, where: str, take: Callable[[Mapping[str, Any], str], None]) -> Message:
    given: Mapping[str, Any] = cast("Mapping[str, Any]", part) if isinstance(part, Mapping) else {}
    kind, others = given.get("type"), set(given) - {"type"}
    if kind == "text" and others == {"text"}:
        _check_text(given["text"], f"{where}.text")
        return {"type": "text", "text": str(given["text"])}
    if kind == "image" and others <= set(_IMAGE_KEYS) and len(others) <= 1:
        take(given, where)
        return {"type": "image", **dict.fromkeys(others, _SHOWN)}
    raise InputInvalid(
        "no part of a message",
        where=where,
        got=", ".join(map(str, given)) if given else type(cast("object", part)).__name__,
        wanted=_WANTED,
    )


def _check_text(text: Any, where: str) -> None:
    if not isinstance(text, str):
        raise InputInvalid("no text", where=where, got=type(text).__name__, wanted="str")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputInvalid("the text is not valid Unicode", where=where, got=error) from error


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)
