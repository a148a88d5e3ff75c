"""Tower and projector of a config: its ``vision_config`` and what says which features are taken.

It knows the config keys of the CLIP and SigLIP towers, and of the projector of two layers that the LLaVA family has.
"""

from __future__ import annotations

from typing import Any

from allrounder.errors import ModelUnsupported
from allrounder.vlm.parts.activations import activation
from allrounder.vlm.spec import ProjectorSpec, VisionSpec

__all__ = ["VISION_FAMILIES", "feature_layers", "projector_spec", "square", "vision_spec"]

VISION_FAMILIES = {"clip_vision_model": "clip", "siglip_vision_model": "siglip"}


def projector_spec(config: Any, vision: VisionSpec) -> ProjectorSpec:
    """Returns the spec of a config's projector.

    Raises:
        ModelUnsupported: An unknown activation.
    """
    return ProjectorSpec(
        inputs=vision.hidden * len(vision.feature_layers) * vision.merge**2,
        hidden=config.text_config.hidden_size,
        activation=activation(config.projector_hidden_act, "projector_hidden_act"),
        bias=config.multimodal_projector_bias,
    )


def vision_spec(config: Any) -> VisionSpec:
    """Returns the spec of a config's tower.

    Raises:
        ModelUnsupported: Something that pruning does not understand; ``where`` is the config key.
    """
    tower: Any = config.vision_config
    if tower.num_channels != 3:
        raise ModelUnsupported("not RGB", where="vision_config.num_channels", got=tower.num_channels, wanted=3)
    return VisionSpec(
        family=VISION_FAMILIES[tower.model_type],
        hidden=tower.hidden_size,
        layers=tower.num_hidden_layers,
        heads=tower.num_attention_heads,
        feed_forward=tower.intermediate_size,
        image_size=square(tower.image_size, "vision_config.image_size"),
        patch_size=square(tower.patch_size, "vision_config.patch_size"),
        activation=activation(tower.hidden_act, "vision_config.hidden_act"),
        norm_eps=tower.layer_norm_eps,
        feature_layers=feature_layers(config.vision_feature_layer, tower.num_hidden_layers),
        drop_first=config.vision_feature_select_strategy == "default",
    )


def square(size: Any, where: str) -> int:
    """Returns one side of a square.

    Raises:
        ModelUnsupported: It is none; ``where`` is the config key.
    """
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or sides[0] != sides[1]:
        raise ModelUnsupported("not a square", where=where, got=size, wanted="one whole number")
    return sides[0]


def feature_layers(layers: int | list[int], depth: int) -> tuple[int, ...]:
    """Returns indices into the tower's depth + 1 hidden states, none negative.

    Raises:
        ModelUnsupported: There is no such state.
    """
    listed = [layers] if isinstance(layers, int) else list(layers)
    if not listed or not all(-depth - 1 <= layer <= depth for layer in listed):
        raise ModelUnsupported(
            "a vision layer that the tower does not have",
            where="vision_feature_layer",
            got=layers,
            wanted=f"{-depth - 1} to {depth}",
        )
    return tuple(layer % (depth + 1) for layer in listed)
