"""What a stock model calls its parts: attributes of what stands below its head, ``model.model``."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["LLAVA_MODULES", "Modules"]


class Modules(NamedTuple):
    """Names of attributes."""

    decoder: str
    tower: str
    projector: str


LLAVA_MODULES: Final = Modules("language_model", "vision_tower", "multi_modal_projector")
