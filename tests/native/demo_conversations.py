"""Conversations for tests that ask both languages: images 0 to 3, turns 1 to 3, of the demo's test split.

Contents are lists of parts: that is what the C interface knows, and templates may write a content that is a text alone
in another way.
"""

from typing import Any

import numpy as np

from allrounder.demo.prompts import examples
from allrounder.demo.scenes import Split

__all__ = ["COUNT", "conversations", "images_of"]

COUNT = 50
_IMAGES = (0, 1, 2, 1, 0, 3, 1, 0)
_SAID = ("a red circle", "two squares and nothing else", "I see none.")


def conversations(count: int = COUNT) -> list[list[dict[str, Any]]]:
    """Returns conversations that neither model nor router saw; images stand before, between and behind texts."""
    found = list(examples(Split.TEST, 3 * count))
    return [_conversation(number, found[3 * number : 3 * number + 3]) for number in range(count)]


def _conversation(number: int, found: list[Any]) -> list[dict[str, Any]]:
    images, turns = _IMAGES[number % len(_IMAGES)], 1 + number // 4 % 3
    messages: list[dict[str, Any]] = []
    for turn in range(turns):
        parts: list[dict[str, Any]] = [{"type": "text", "text": found[turn].question}]
        for image in range(images):
            if image % turns == turn:
                place = (number + image) % (len(parts) + 1)
                parts.insert(place, {"type": "image", "image": np.asarray(found[image].image)})
        messages.append({"role": "user", "content": parts})
        if turn + 1 < turns:
            said = {"type": "text", "text": _SAID[number % len(_SAID)]}
            messages.append({"role": "assistant", "content": [said]})
    return messages


def images_of(messages: list[dict[str, Any]]) -> list[Any]:
    """Returns the images of messages, in order."""
    return [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]
