"""LLaVA-OneVision's images: alone, one is the whole and the tiles of a canvas; of several, each is one tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from allrounder.images.plan import Canvases, ImagePlan
from allrounder.images.planning import Extent
from allrounder.vlm.parts.images import anyres_limit, as_bytes, canvas_plan
from allrounder.vlm.spec import ModelSpec

__all__ = ["image_embeds", "image_plan"]


def image_plan(processor: Any, config: Any, spec: ModelSpec) -> ImagePlan:
    """Returns the image plan of a `Processor`, for a config.

    Raises:
        ModelUnsupported: A step that runtimes cannot do, or that the model does otherwise; ``where`` is its setting.
    """
    settings: dict[str, Any] = processor.image_processor.to_dict()
    canvases = tuple((int(height), int(width)) for height, width in settings["image_grid_pinpoints"])
    layout = Canvases(canvases=canvases, most=anyres_limit(config), several=as_bytes(settings["image_mean"]))
    return canvas_plan(settings, config, spec, layout)


def image_embeds(model: Any, pixel_values: Tensor, sizes: Sequence[Extent]) -> Tensor:
    """Returns the image tokens [N, H] of tiles [tiles, 3, S, S] of images of ``sizes``, by the stock code."""
    found = model.get_image_features(
        pixel_values,
        image_sizes=torch.tensor(sizes).reshape(-1, 2),
        batch_num_images=torch.tensor([len(sizes)]),  # images of one prompt
    )
    return torch.cat(list(found.pooler_output))
