"""LLaVA's images: one tile each, by the settings of the stock CLIP, SigLIP and Llava image processors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from allrounder.images.plan import Fixed, ImagePlan
from allrounder.images.planning import Extent
from allrounder.vlm.parts.images import as_bytes, plan_of, refuse
from allrounder.vlm.spec import ModelSpec

__all__ = ["image_embeds", "image_plan"]


def image_plan(processor: Any, _: Any, spec: ModelSpec) -> ImagePlan:
    """Returns the image plan of a `Processor`.

    Raises:
        ModelUnsupported: A step that runtimes cannot do; ``where`` is its setting.
    """
    settings: dict[str, Any] = processor.image_processor.to_dict()
    pads = bool(settings.get("do_pad"))
    if pads and not type(processor.image_processor).__name__.startswith("Llava"):
        refuse("do_pad", "true", "padding to a square, as the Llava processor does it")
    shortest = _shortest(settings, spec.vision.image_size, pads=pads)
    return plan_of(settings, spec, Fixed(square=as_bytes(settings["image_mean"]) if pads else None, shortest=shortest))


def image_embeds(model: Any, pixel_values: Tensor, _: Sequence[Extent]) -> Tensor:
    """Returns the image tokens [N, H] of tiles [tiles, 3, S, S], by the stock code."""
    return torch.cat(list(model.get_image_features(pixel_values).pooler_output))


def _shortest(settings: dict[str, Any], size: int, *, pads: bool) -> int | None:
    """Returns what the shorter edge is resized to before the middle is cut out; None: resize to the square at once."""
    edges = {key: value for key, value in dict(settings["size"]).items() if value}
    shortest = edges.get("shortest_edge") if set(edges) == {"shortest_edge"} else None
    if shortest is None and edges != {"height": size, "width": size}:
        refuse("size", edges, f"shortest_edge, or height and width of {size}")
    cropped = bool(settings.get("do_center_crop"))
    crop = dict(settings.get("crop_size") or {}) if cropped else {}
    if cropped and (crop.get("height"), crop.get("width")) != (size, size):
        refuse("crop_size", crop, f"height and width of {size}")
    if shortest is not None and (shortest < size or (not cropped and not (pads and shortest == size))):
        refuse("size", edges, f"at least {size}, with do_center_crop")
    return shortest
