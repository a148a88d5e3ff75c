"""InternVL's images: the tiles of the grid of the nearest aspect ratio, then the whole, between two marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from allrounder.errors import ModelUnsupported
from allrounder.images.plan import ImagePlan, NearestAspect
from allrounder.images.planning import Extent
from allrounder.vlm.parts.images import plan_of, refuse
from allrounder.vlm.spec import ModelSpec

__all__ = ["IMAGE_ROLE", "IMAGE_SETTINGS", "image_embeds", "image_plan"]

_TOKENS = 256  # of a tile, where `InternVLProcessor`'s file does not say
IMAGE_ROLE = "context_image_token"
IMAGE_SETTINGS = {"crop_to_patches": True}  # as `InternVLProcessor` calls its image processor, whatever that has


def image_plan(processor: Any, _: Any, spec: ModelSpec) -> ImagePlan:
    """Returns the image plan of a `Processor`.

    Raises:
        ModelUnsupported: A step that runtimes cannot do, or that the model does otherwise; a tokenizer without marks
            around an image. ``where`` is the setting.
    """
    settings: dict[str, Any] = processor.image_processor.to_dict()
    side = spec.vision.image_size
    edges = {key: value for key, value in dict(settings["size"]).items() if value}
    if edges != {"height": side, "width": side}:
        refuse("size", edges, f"height and width of {side}: the tower's")
    least, most = settings["min_patches"], settings["max_patches"]
    if not 1 <= least <= most:
        refuse("min_patches", least, f"1 to max_patches ({most})")
    tokens = processor.settings.get("image_seq_length", _TOKENS)
    if tokens != spec.image_tokens:
        refuse("image_seq_length", tokens, f"{spec.image_tokens}: the model's image tokens of a tile")
    before, after = (_mark(processor.tokenizer, role) for role in ("start_image_token", "end_image_token"))
    return plan_of(settings, spec, NearestAspect(least=least, most=most, before=before, after=after))


def image_embeds(model: Any, pixel_values: Tensor, _: Sequence[Extent]) -> Tensor:
    """Returns the image tokens [N, H] of tiles [tiles, 3, S, S], by the stock code."""
    return model.get_image_features(pixel_values).pooler_output.flatten(0, 1)


def _mark(tokenizer: Any, role: str) -> str:
    """Returns the token that a tokenizer has for a role."""
    token = getattr(tokenizer, role, None)
    if token is None or token not in tokenizer.get_vocab():
        raise ModelUnsupported(
            "the tokenizer has no token for a mark around images",
            where=f"tokenizer_config.json: {role}",
            got=token,
            wanted="a token of the tokenizer",
            remedy="use the tokenizer that belongs to this checkpoint",
        )
    return token
