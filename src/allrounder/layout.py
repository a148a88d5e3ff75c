"""The prompt layout: what a prompt is once its images are there, for every stage alike.

A family makes it and everyone else only reads it. `sequential_layout` makes it for families whose image tokens stand in
one row with the text and whose positions count 0, 1, 2, ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from allrounder.errors import InputInvalid
from allrounder.versions import Keep, kept_tokens

__all__ = ["PromptLayout", "keep_counts", "sequential_layout"]


class PromptLayout(NamedTuple):
    """A prompt of R rows, N of which are image tokens of I images; all numbers are plain integers."""

    input_ids: tuple[int, ...]  # [R], the placeholder's id where image tokens stand
    image_index: tuple[int, ...]  # [N], ascending: the rows of the image tokens
    image_of: tuple[int, ...]  # [N]: whose they are, 0 to I-1 in the order of the images
    position_ids: tuple[tuple[int, ...], ...]  # [A, R]: A = 1, or 3 for M-RoPE
    next_position: int  # of the first new token, in all A rows

    @property
    def rows(self) -> int:
        """R."""
        return len(self.input_ids)

    @property
    def image_tokens(self) -> int:
        """N."""
        return len(self.image_index)

    @property
    def text_tokens(self) -> int:
        """R - N."""
        return self.rows - self.image_tokens

    @property
    def tokens_by_image(self) -> tuple[int, ...]:
        """N_i of each image, in order."""
        counts = Counter(self.image_of)
        return tuple(counts[image] for image in range(len(counts)))

    @property
    def text_ids(self) -> tuple[int, ...]:
        """The ids that are no placeholders, in order."""
        images = set(self.image_index)
        return tuple(each for row, each in enumerate(self.input_ids) if row not in images)


def sequential_layout(ids: Sequence[int], image_token_id: int, images: Sequence[int | Sequence[int]]) -> PromptLayout:
    """Returns the layout of a prompt in which each image stands as one placeholder.

    Args:
        ids: The prompt's ids, one ``image_token_id`` per image.
        image_token_id: The placeholder's id.
        images: What stands in place of each placeholder, in order: that many image tokens, or ids.

    Raises:
        InputInvalid: More images than placeholders, or the reverse; or no text behind the last image.
    """
    if (places := ids.count(image_token_id)) != len(images):
        raise InputInvalid(
            "images and their placeholders in the prompt do not match",
            where="messages",
            got=f"{len(images)} images, {places} placeholders",
            wanted="one placeholder per image",
            remedy="the model's chat template must write its image token once for each image part of a message",
        )
    if not ids or ids[-1] == image_token_id:
        raise InputInvalid(
            "a prompt ends with text, from which the answer goes on",
            where="messages",
            got="an image at its end" if ids else "nothing",
            remedy="the model's chat template must write where the answer begins",
        )
    input_ids: list[int] = []
    image_index: list[int] = []
    image_of: list[int] = []
    blocks = enumerate(images)
    for each in ids:
        if each != image_token_id:
            input_ids.append(each)
            continue
        image, content = next(blocks)
        block = [each] * content if isinstance(content, int) else content
        rows = [len(input_ids) + place for place, inner in enumerate(block) if inner == each]
        image_index += rows
        image_of += [image] * len(rows)
        input_ids += block
    positions = tuple(range(len(input_ids)))
    return PromptLayout(tuple(input_ids), tuple(image_index), tuple(image_of), (positions,), len(positions))


def keep_counts(layout: PromptLayout, keep: Keep) -> tuple[int, ...]:
    """Returns T_i, how many image tokens of each image are kept; it depends on N_i alone."""
    return tuple(kept_tokens(keep, tokens) for tokens in layout.tokens_by_image)
