"""Python's values as the C interface takes them.

What it is: prompts, requests and options as structs of `c_api`.
What it knows: in C a text ends at its first zero byte, and a zero means the default; neither is to happen unseen.
What it does not know: what is a good request; the library says so.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from allrounder.errors import ImageInvalid, InputInvalid
from allrounder.native.c_api import Message, Part, Request

__all__ = ["Prompt", "checked_number", "lowered_messages", "lowered_request", "one_of", "zero_ended"]


class Prompt(NamedTuple):
    """A request's prompt: messages with their images, or rendered text or ids, with images."""

    messages: Sequence[Mapping[str, Any]] | None = None
    text: str | None = None
    ids: Sequence[int] | None = None
    images: Sequence[Any] = ()


def lowered_request(prompt: Prompt, options: Mapping[str, Any]) -> Request:
    """Returns a request without its callback."""
    raw = Request(size=c.sizeof(Request))
    if prompt.messages is not None:
        raw.messages, raw.message_count = lowered_messages(prompt.messages), len(prompt.messages)
    if prompt.text is not None:
        raw.text, raw.text_bytes = _text(prompt.text), len(_text(prompt.text))
    if prompt.ids is not None:
        raw.ids, raw.id_count = (c.c_int64 * len(prompt.ids))(*prompt.ids), len(prompt.ids)
    raw.images, raw.image_count = (Part * len(prompt.images))(*map(_image, prompt.images)), len(prompt.images)
    for name in ("keep", "max_new_tokens", "top_p"):
        setattr(raw, name, checked_number(options, name))
    for name in ("temperature", "top_k", "seed"):
        setattr(raw, name, options.get(name, 0))
    raw.seeded = "seed" in options
    stop = [zero_ended(each, "stop") for each in options.get("stop", ())]
    raw.stop, raw.stop_count = (c.c_char_p * len(stop))(*stop), len(stop)
    return raw


def lowered_messages(messages: Sequence[Mapping[str, Any]]) -> c.Array[Message]:
    """Returns messages; what is none of Python's form is refused."""
    return (Message * len(messages))(*map(_message, messages))


def _message(message: Mapping[str, Any]) -> Message:
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    raw = Message(size=c.sizeof(Message), role=zero_ended(message["role"], "role"), part_count=len(parts))
    raw.parts = (Part * len(parts))(*map(_part, parts))
    return raw


def _part(part: Mapping[str, Any]) -> Part:
    if part.get("type") == "text":
        text = _text(part["text"])
        return Part(size=c.sizeof(Part), text=text, text_bytes=len(text))
    if part.get("type") == "image" and "image" in part:
        return _image(part["image"])
    wanted = '{"type": "text", "text": "..."} or {"type": "image", "image": ...}'
    raise InputInvalid("no part of a message", where="messages", got=", ".join(map(str, part)), wanted=wanted)


def _image(image: Any) -> Part:
    view = memoryview(image)
    shape = view.shape or ()
    if view.format != "B" or len(shape) != 3 or shape[2] != 3:
        got = f"{view.format} {list(shape)}"
        raise ImageInvalid("not RGB pixels", where="image", got=got, wanted="bytes of [height, width, 3]")
    return Part(size=c.sizeof(Part), rgb=view.tobytes(), height=shape[0], width=shape[1])


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # half a surrogate pair is for the library to refuse


def zero_ended(value: str | None, where: str) -> bytes | None:
    """Returns a text that ends at its zero byte.

    Raises:
        InputInvalid: It holds one.
    """
    if value is not None and "\0" in value:
        raise InputInvalid("the text holds a zero byte", where=where, got=repr(value))
    return None if value is None else _text(value)


def checked_number(options: Mapping[str, Any], name: str) -> Any:
    """Returns an option whose zero, in the C interface, would quietly mean the default.

    Raises:
        InputInvalid: It is zero.
    """
    if options.get(name, 1) == 0:
        raise InputInvalid("zero is no value", where=name, remedy="leave it out for the default")
    return options.get(name, 0)


def one_of(names: Sequence[str], value: str, where: str) -> int:
    """Returns the number by which the C interface knows a name.

    Raises:
        InputInvalid: It is none of them.
    """
    if value not in names:
        wanted = " or ".join(repr(name) for name in names if name)
        raise InputInvalid("unknown value", where=where, got=repr(value), wanted=wanted)
    return names.index(value)
