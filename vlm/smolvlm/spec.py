"""The spec of a SmolVLM or Idefics3 config: a SigLIP-like tower with its last norm, pixel shuffle, one linear layer."""

from __future__ import annotations

from typing import Any

import torch

from allrounder.errors import ModelUnsupported
from allrounder.vlm.parts.activations import activation
from allrounder.vlm.parts.decoder import decoder_spec
from allrounder.vlm.spec import ModelSpec, ProjectorSpec, VisionSpec

__all__ = ["TOWERS", "model_spec"]

# Whatever `vision_config.model_type` says, the stock classes make their own tower of it; checkpoints on the hub have
# each of these.
TOWERS = ("smolvlm_vision", "idefics3_vision", "idefics3", "siglip_vision_model")


def model_spec(config: Any) -> ModelSpec:
    """Returns the spec of a stock config.

    Raises:
        ModelUnsupported: Something that pruning does not understand, or that would make a removed token differ from a
            masked one. ``where`` is the config key.
    """
    decoder, vision = decoder_spec(config), _tower(config)
    projector = ProjectorSpec(vision.hidden * vision.merge**2, decoder.hidden, activation=None, bias=False)
    token = config.image_token_id
    if not 0 <= token < decoder.vocabulary:
        raise ModelUnsupported(
            "the image token is outside the vocabulary",
            where="image_token_id",
            got=token,
            wanted=f"0 to {decoder.vocabulary - 1}",
        )
    return ModelSpec(config.model_type, decoder, vision, projector, vision.tokens, token)


def _tower(config: Any) -> VisionSpec:
    tower = config.vision_config
    if tower.num_channels != 3:
        raise ModelUnsupported("not RGB", where="vision_config.num_channels", got=tower.num_channels, wanted=3)
    size, patch = (_whole(getattr(tower, key), f"vision_config.{key}") for key in ("image_size", "patch_size"))
    if size % patch:
        raise ModelUnsupported(
            "tiles that are not made of patches",
            where="vision_config.image_size",
            got=size,
            wanted=f"a multiple of patch_size ({patch})",
        )
    grid, merge = size // patch, config.scale_factor
    if merge < 1 or grid % merge:
        raise ModelUnsupported(
            "patches that cannot be merged into squares",
            where="scale_factor",
            got=merge,
            wanted=f"a whole number that divides the tower's {grid} x {grid} patches",
        )
    _check_positions(grid)
    return VisionSpec(
        family="siglip",
        hidden=tower.hidden_size,
        layers=tower.num_hidden_layers,
        heads=tower.num_attention_heads,
        feed_forward=tower.intermediate_size,
        image_size=size,
        patch_size=patch,
        activation=activation(tower.hidden_act, "vision_config.hidden_act"),
        norm_eps=tower.layer_norm_eps,
        feature_layers=(tower.num_hidden_layers,),
        drop_first=False,
        merge=merge,
        last_norm=True,
    )


def _whole(size: Any, where: str) -> int:
    if not isinstance(size, int):  # the stock classes divide it, and take no list
        raise ModelUnsupported("not a square", where=where, got=size, wanted="one whole number")
    return size


def _check_positions(grid: int) -> None:
    """Refuses towers in which a patch of a whole tile does not get the position of its own place.

    The stock code looks positions up by fractions in float32, whatever dtype the model has, and for some grids rounding
    gives two patches one position. Which, depends on the machine: no frozen graph can follow.
    Source: ``Idefics3VisionEmbeddings.forward`` of transformers.
    """
    places = torch.arange(grid, dtype=torch.float32)
    fractions = (places * (1.0 / torch.tensor(grid))).clamp(max=1.0 - 1e-6)
    found = torch.bucketize(fractions, torch.arange(1 / grid, 1.0, 1 / grid), right=True)
    wrong = [(place, bucket) for place, bucket in enumerate(found.tolist()) if place != bucket]
    if wrong:
        place, bucket = wrong[0]
        raise ModelUnsupported(
            "position embeddings that the stock code takes from other patches, by rounding",
            where="vision_config.image_size",
            got=f"{grid} patches a side: patch {place} gets position {bucket}",
            wanted="a number of patches a side for which each gets its own, as 16, 24, 26, 27 and 32 do",
        )
