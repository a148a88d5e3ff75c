"""The conversation of ``allrounder run``: from its arguments to messages."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

import msgspec

from allrounder.chat.messages import Message, question
from allrounder.errors import InputInvalid

__all__ = ["add_arguments", "conversation"]

_IMAGE_KEYS = ("image", "url", "path")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say what is asked."""
    asked = parser.add_argument_group("what is asked: a question, or a file of messages")
    asked.add_argument("--question", metavar="TEXT")
    asked.add_argument(
        "--image", type=Path, action="append", default=[], metavar="FILE", help="before the question; may be repeated"
    )
    asked.add_argument("--system", metavar="TEXT", help="a system prompt before the question")
    asked.add_argument(
        "--messages",
        type=Path,
        metavar="FILE.json",
        help='a list of messages: [{"role": "user", "content": [{"type": "image", "image": "a.png"}, '
        '{"type": "text", "text": "..."}]}]; images lie relative to the file',
    )


def conversation(arguments: argparse.Namespace) -> list[Any]:
    """Returns the messages that the arguments say, each image as a path.

    Raises:
        InputInvalid: Neither a question nor a file, both, or a file that is no list of messages.
    """
    if (arguments.question is None) == (arguments.messages is None):
        raise InputInvalid(
            "either a question is asked, or messages are",
            where="--question, --messages",
            remedy='give one of them: --image photo.png --question "What is it?", or --messages FILE.json',
        )
    if arguments.messages is None:
        return _short(arguments.question, arguments.image, arguments.system)
    if arguments.image or arguments.system is not None:
        raise InputInvalid(
            "a file of messages holds its images and its system prompt itself",
            where="--messages",
            got="--image or --system beside it",
            remedy='leave them out, and write {"type": "image", "image": "a.png"} into the file',
        )
    return _read(arguments.messages)


def _short(text: str, images: list[Path], system: str | None) -> list[Message]:
    (turn,) = question(text, len(images))
    for part, image in zip(turn["content"], images, strict=False):
        part["image"] = image
    before = [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
    return [*before, turn]


def _read(file: Path) -> list[Any]:
    try:
        messages = msgspec.json.decode(file.read_bytes(), type=list[Any])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputInvalid(
            "the messages cannot be read", where=file, got=error, wanted='[{"role": "user", "content": "..."}]'
        ) from error
    return [_placed(message, file.parent) for message in messages]


def _placed(value: Any, folder: Path) -> Any:
    """Returns a message with the paths of its images relative to ``folder``; what is none is left to be refused."""
    if not isinstance(value, dict) or not isinstance(value.get("content"), list):
        return value
    message = cast("dict[str, Any]", value)
    return {**message, "content": [_placed_part(part, folder) for part in message["content"]]}


def _placed_part(part: Any, folder: Path) -> Any:
    if not isinstance(part, dict) or part.get("type") != "image":
        return part
    given = cast("dict[str, Any]", part)
    return {key: folder / each if key in _IMAGE_KEYS and isinstance(each, str) else each for key, each in given.items()}
