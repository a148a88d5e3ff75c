"""SmolVLM's and Idefics3's images: tiles of the image at its longest edge, then the whole, marks as text between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from allrounder.errors import ModelUnsupported
from allrounder.images.pixels import pixel_values
from allrounder.images.plan import ImagePlan, LongestEdge
from allrounder.images.planning import Extent
from allrounder.vlm.parts.images import plan_of, refuse
from allrounder.vlm.spec import ModelSpec

__all__ = ["image_embeds", "image_plan"]

_IMAGE, _AROUND, _WHOLE, _END = "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"
_TOKENS = 169  # `image_seq_len` of stock processors whose file does not say it
_NOTHING = 1e-6  # of pixel values: less counts as zero


def image_plan(processor: Any, config: Any, spec: ModelSpec) -> ImagePlan:
    """Returns the image plan of a `Processor`, for a config.

    Raises:
        ModelUnsupported: A step that runtimes cannot do, or that the model does otherwise; a tokenizer without the
            marks around an image. ``where`` is the setting.
    """
    settings: dict[str, Any] = processor.image_processor.to_dict()
    tokens = processor.settings.get("image_seq_len", _TOKENS)
    if tokens != spec.image_tokens:
        refuse("image_seq_len", tokens, f"{spec.image_tokens}: what the model makes of a tile")
    size = {key: value for key, value in dict(settings["size"]).items() if value}
    if set(size) != {"longest_edge"}:
        refuse("size", size, "longest_edge alone")
    tile = {key: value for key, value in dict(settings["max_image_size"]).items() if value}
    if tile != {"longest_edge": spec.vision.image_size}:
        refuse("max_image_size", tile, f"longest_edge of {spec.vision.image_size}: the tower's image_size")
    around, whole = _marks(processor, config.model_type)
    split = bool(settings["do_image_splitting"])
    layout = LongestEdge(edge=size["longest_edge"], split=split, around=around, whole=whole)
    plan = plan_of(settings, spec, layout)
    _check_pixels(plan)
    return plan


def image_embeds(model: Any, pixel_values: Tensor, _: Sequence[Extent]) -> Tensor:
    """Returns the image tokens [N, H] of tiles [tiles, 3, S, S], by the stock code."""
    (rows,) = model.get_image_features(pixel_values[None]).pooler_output
    return rows


def _marks(processor: Any, model_type: str) -> tuple[str, str]:
    """Returns what stands around tiles, and what marks the whole image.

    Source: the constructors of ``Idefics3Processor`` and ``SmolVLMProcessor`` of transformers.
    """
    tokenizer = processor.tokenizer
    if model_type == "smolvlm":
        around = getattr(tokenizer, "fake_image_token", _AROUND)
        whole = getattr(tokenizer, "global_image_token", _WHOLE)
        needed = (around,)
    else:
        around, whole, needed = _AROUND, _WHOLE, (_AROUND, _IMAGE, _END)  # tokens that the stock processor would add
        if processor.image_token != _IMAGE:
            _no_token("image_token", processor.image_token, _IMAGE)
    added = tokenizer.get_added_vocab()
    for token in needed:
        if token not in added:
            _no_token("added_tokens_decoder", f"no {token}", f"{token} as an added token")
    return around, whole


def _no_token(key: str, got: object, wanted: str) -> None:
    raise ModelUnsupported(
        "the tokenizer lacks a token that stands beside images",
        where=f"tokenizer_config.json: {key}",
        got=got,
        wanted=wanted,
        remedy="use the tokenizer that belongs to this checkpoint",
    )


def _check_pixels(plan: ImagePlan) -> None:
    """Refuses settings under which a tile of one colour has no pixel value but zero: the model takes it for padding.

    Source: ``get_image_features`` of transformers' ``idefics3``.
    """
    grey = np.arange(256, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)
    values = np.abs(pixel_values(plan, grey)).reshape(256, 3)
    if (values.min(axis=0) < _NOTHING).all():
        refuse("image_mean", plan.mean, "a mean that no colour has: the model leaves out a tile of that colour alone")
