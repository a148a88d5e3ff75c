"""The spec of a config of the LLaVA family: a tower, a projector of two layers, a decoder."""

from __future__ import annotations

from typing import Any

from allrounder.errors import ModelUnsupported
from allrounder.vlm.parts.decoder import decoder_spec
from allrounder.vlm.parts.tower import projector_spec, vision_spec
from allrounder.vlm.spec import DecoderSpec, ModelSpec

__all__ = ["checked_image_token", "model_spec"]


def model_spec(config: Any, *, newline: bool = False) -> ModelSpec:
    """Returns the spec of a stock config; ``newline``: whether the model has a learned newline row.

    Raises:
        ModelUnsupported: Something that pruning does not understand, or that would make a removed token differ from a
            masked one. ``where`` is the config key.
    """
    decoder, vision = decoder_spec(config), vision_spec(config)
    image_tokens = vision.tokens
    if image_tokens < 1:
        raise ModelUnsupported("the tower gives no image token", where="vision_config.image_size", got=image_tokens)
    if newline and image_tokens != vision.grid**2:
        raise ModelUnsupported(
            "the tokens of a tile are not its patches, and could not be laid out with newlines",
            where="vision_feature_select_strategy",
            got=f"{config.vision_feature_select_strategy}: {image_tokens} tokens",
            wanted=f"{vision.grid**2}: default with a CLIP tower, full with a SigLIP tower",
        )
    token = checked_image_token(config.image_token_id, decoder, "image_token_index")
    projector = projector_spec(config, vision)
    return ModelSpec(config.model_type, decoder, vision, projector, image_tokens, token, newline)


def checked_image_token(token: int, decoder: DecoderSpec, where: str) -> int:
    """Returns the id of the image token, after checking it.

    Raises:
        ModelUnsupported: It is outside the vocabulary; ``where`` is the config key.
    """
    if not 0 <= token < decoder.vocabulary:
        raise ModelUnsupported(
            "the image token is outside the vocabulary", where=where, got=token, wanted=f"0 to {decoder.vocabulary - 1}"
        )
    return token
