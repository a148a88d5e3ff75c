"""What of a prompt's images a model is shown: all of each, or less, as a pruner says before the tower sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from allrounder.images.pixels import PreparedImages, prepare_planned
from allrounder.images.plan import ImagePlan
from allrounder.images.planning import Extent, PlannedImage, plan_images
from allrounder.versions import Keep

__all__ = ["Show", "Shown", "ShownImage", "prepare_shown", "whole"]


class ShownImage(NamedTuple):
    """One image: what the tower sees, and which of its image tokens the decoder is given, ascending; None: all."""

    planned: PlannedImage
    given: tuple[int, ...] | None = None

    @property
    def tokens(self) -> int:
        """How many image tokens the decoder is given."""
        return self.planned.tokens if self.given is None else len(self.given)

    @property
    def placed(self) -> PlannedImage:
        """The image as a prompt layout counts it: with the tokens that the decoder is given."""
        if self.given is None:
            return self.planned
        counts = tuple(len(self.given) if isinstance(part, int) else part for part in self.planned.content)
        return self.planned._replace(content=counts)


class Shown(NamedTuple):
    """The images of one prompt, and the keep rule for what is dropped of their tokens at layer K."""

    images: tuple[ShownImage, ...]
    keep: Keep

    @property
    def partly(self) -> bool:
        """Whether the decoder is given some of the tower's image tokens alone."""
        return any(image.given is not None for image in self.images)

    def of(self, image_embeds: np.ndarray) -> np.ndarray:
        """Returns those rows of what the tower gave, [tokens of all images, H], that the decoder is given."""
        rows: list[int] = []
        first = 0
        for image in self.images:
            given = range(image.planned.tokens) if image.given is None else image.given
            rows += [first + row for row in given]
            first += image.planned.tokens
        return image_embeds[rows]


# Of an image plan, the height and width of each image of a prompt, and a version's keep rule.
Show = Callable[[ImagePlan, Sequence[Extent], Keep], Shown]


def whole(plan: ImagePlan, sizes: Sequence[Extent], keep: Keep) -> Shown:
    """Shows images as the model's own processor does; all dropping is left to layer K.

    Raises:
        ImageInvalid: An image is too narrow for the plan.
    """
    return Shown(tuple(map(ShownImage, plan_images(plan, sizes))), keep)


def prepare_shown(plan: ImagePlan, shown: Shown, images: Sequence[np.ndarray]) -> PreparedImages:
    """Returns the tiles of images, each uint8 [height, width, 3], as they are shown."""
    return prepare_planned(plan, [image.planned for image in shown.images], images)
