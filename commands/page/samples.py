"""Sample pictures: what each version kept of a picture, and what it answered.

What it is: two records and their check. What it knows: their shapes. What it does not know: how they came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from allrounder.card import Card
from allrounder.errors import ImageInvalid, InputInvalid

__all__ = ["Kept", "Sample", "check_samples"]


@dataclass(frozen=True, slots=True)
class Kept:
    """What one version kept of a picture."""

    version: str  # and, where that is not enough, its policy: it is only shown
    keep_list: tuple[int, ...]  # ascending, of 0..N-1
    layer_plan: tuple[int, ...]  # ascending, of 0..M-1
    answer: str  # in its own words


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A picture, a question, and what each version made of it."""

    picture: NDArray[np.uint8]  # RGB [H, W, 3], cut and scaled as the model sees it
    question: str
    wanted: str | None  # the right answer, where it is known
    versions: tuple[Kept, ...]


def check_samples(card: Card, samples: Sequence[Sample]) -> None:
    """Checks that samples can be of the card's host.

    Raises:
        ImageInvalid: A picture is not uint8 RGB [H, W, 3].
        InputInvalid: A kept token or layer is not one of the host's, or they do not ascend.
    """
    for index, sample in enumerate(samples):
        picture = np.asarray(sample.picture)
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise ImageInvalid(
                "a sample's picture is no RGB picture",
                where=f"sample {index}",
                got=f"{picture.dtype} {list(picture.shape)}",
                wanted="uint8 [height, width, 3]",
            )
        for kept in sample.versions:
            where = f"sample {index}, version {kept.version}"
            _check("visual tokens", kept.keep_list, card.visual_tokens, where)
            _check("layers", kept.layer_plan, card.layers, where)


def _check(what: str, chosen: tuple[int, ...], count: int, where: str) -> None:
    ascending = all(left < right for left, right in pairwise(chosen))
    if not ascending or (chosen and not 0 <= chosen[0] <= chosen[-1] < count):
        raise InputInvalid(
            f"the kept {what} of a sample are not of this host",
            where=where,
            got=chosen,
            wanted=f"ascending numbers of 0 to {count - 1}",
        )
