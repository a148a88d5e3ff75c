"""Settings of stock image processors, as image plans have them; a step that runtimes cannot do is refused by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NoReturn

from allrounder.errors import ModelUnsupported
from allrounder.images.plan import FILTERS, Canvases, Filter, ImagePlan, Layout
from allrounder.vlm.spec import ModelSpec

__all__ = ["anyres_limit", "as_bytes", "canvas_plan", "plan_of", "refuse"]

_FILTERS: dict[int, Filter] = dict(zip((2, 3, 1), FILTERS, strict=True))  # by Pillow's numbers
_ANYRES = re.compile(r"anyres_max_([1-9][0-9]*)")


def plan_of(settings: dict[str, Any], spec: ModelSpec, layout: Layout) -> ImagePlan:
    """Returns a plan: the given layout, and what the settings say of filter, mean and deviation.

    Raises:
        ModelUnsupported: Another filter, images that are not made RGB; ``where`` is the setting.
    """
    chosen = _FILTERS.get(int(settings.get("resample") or 0))
    if not settings.get("do_resize"):
        refuse("do_resize", settings.get("do_resize"), "true")
    if chosen is None:
        refuse("resample", settings.get("resample"), "LANCZOS (1), BILINEAR (2) or BICUBIC (3)")
    if settings.get("do_convert_rgb") is False:
        refuse("do_convert_rgb", "false", "true: images are handed over as RGB")
    normal = bool(settings.get("do_normalize"))
    return ImagePlan(
        size=spec.vision.image_size,
        tokens=spec.image_tokens,
        filter=chosen,
        scale=float(settings["rescale_factor"]) if settings.get("do_rescale") else 1.0,
        mean=tuple(settings["image_mean"]) if normal else (0.0, 0.0, 0.0),
        std=tuple(settings["image_std"]) if normal else (1.0, 1.0, 1.0),
        layout=layout,
    )


def canvas_plan(settings: dict[str, Any], config: Any, spec: ModelSpec, layout: Canvases) -> ImagePlan:
    """Returns the plan of canvases that image processor and model agree on; ``layout`` has those of the processor.

    Raises:
        ModelUnsupported: See `plan_of`; or tiles, canvases or sizes that are not the model's.
    """
    side = spec.vision.image_size
    edges = {key: value for key, value in dict(settings["size"]).items() if value}
    if edges not in ({"shortest_edge": side}, {"height": side, "width": side}):
        refuse("size", edges, f"shortest_edge, or height and width, of {side}: the tower's")
    crop = {key: value for key, value in dict(settings.get("crop_size") or {}).items() if value}
    if crop not in ({}, {"height": side, "width": side}):
        refuse("crop_size", crop, f"height and width of {side}, or none")
    ours = tuple((int(height), int(width)) for height, width in config.image_grid_pinpoints)
    if layout.canvases != ours:
        refuse("image_grid_pinpoints", layout.canvases, f"those of config.json: {ours}")
    if not ours or any(height < side or width < side or height % side or width % side for height, width in ours):
        refuse("image_grid_pinpoints", ours, f"heights and widths that are multiples of {side}")
    return plan_of(settings, spec, layout)


def anyres_limit(config: Any) -> int:
    """Returns n of ``vision_aspect_ratio``, "anyres_max_n".

    Raises:
        ModelUnsupported: It is another.
    """
    found = _ANYRES.fullmatch(config.vision_aspect_ratio)
    if found is None:
        raise ModelUnsupported(
            "images are laid out in a way that runtimes cannot",
            where="vision_aspect_ratio",
            got=config.vision_aspect_ratio,
            wanted="anyres_max_ and a number",
        )
    return int(found[1])


def as_bytes(color: Sequence[float]) -> tuple[int, int, int]:
    """Returns a colour in 0 to 255, rounded down as the stock processors do."""
    red, green, blue = (int(part * 255) for part in color)
    return red, green, blue


def refuse(key: str, got: object, wanted: str) -> NoReturn:
    """Raises for a setting of an image processor.

    Raises:
        ModelUnsupported: Always.
    """
    raise ModelUnsupported("the image processor does something that runtimes cannot", where=key, got=got, wanted=wanted)
