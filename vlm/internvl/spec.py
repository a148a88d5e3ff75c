"""The spec of an InternVL config: its own tower, pixel shuffle, a projector behind a layer norm, a stock decoder."""

from __future__ import annotations

from typing import Any

from allrounder.errors import ModelUnsupported
from allrounder.vlm.parts.activations import activation
from allrounder.vlm.parts.decoder import decoder_spec
from allrounder.vlm.parts.spec import checked_image_token
from allrounder.vlm.parts.tower import feature_layers, square
from allrounder.vlm.spec import ModelSpec, ProjectorSpec, VisionSpec

__all__ = ["TOWERS", "model_spec"]

TOWERS = ("internvl_vision",)
_PROJECTOR_EPS = 1e-5  # torch's own: the config has no key for it
# Of `vision_config`: the one value that is supported, and why.
_ONLY: dict[str, tuple[Any, str]] = {
    "num_channels": (3, "not RGB"),
    "use_absolute_position_embeddings": (True, "a tower without position embeddings"),
    "use_mask_token": (False, "a token for masked patches, which nothing computes with"),
    "use_mean_pooling": (True, "a norm behind the tower's last layer"),
}
_NORMS = {"layer_norm": False, "rms_norm": True}
_MERGES = {1.0: 1, 0.5: 2, 0.25: 4}  # of those ratios that divide as the stock code divides


def model_spec(config: Any) -> ModelSpec:
    """Returns the spec of a stock config.

    Raises:
        ModelUnsupported: Something that pruning does not understand, or that would make a removed token differ from a
            masked one. ``where`` is the config key.
    """
    decoder, vision = decoder_spec(config), _tower(config)
    projector = ProjectorSpec(
        inputs=vision.hidden * vision.merge**2,
        hidden=decoder.hidden,
        activation=activation(config.projector_hidden_act, "projector_hidden_act"),
        bias=True,
        norm_eps=_PROJECTOR_EPS,
    )
    token = checked_image_token(config.image_token_id, decoder, "image_token_id")
    return ModelSpec(config.model_type, decoder, vision, projector, vision.tokens, token)


def _tower(config: Any) -> VisionSpec:
    tower = config.vision_config
    for key, (wanted, why) in _ONLY.items():
        if getattr(tower, key) != wanted:
            raise ModelUnsupported(why, where=f"vision_config.{key}", got=getattr(tower, key), wanted=wanted)
    if tower.norm_type not in _NORMS:
        raise ModelUnsupported(
            "unknown norm", where="vision_config.norm_type", got=tower.norm_type, wanted=" or ".join(_NORMS)
        )
    if not isinstance(config.vision_feature_layer, int):
        raise ModelUnsupported(
            "several layers of the tower",
            where="vision_feature_layer",
            got=config.vision_feature_layer,
            wanted="one number: the stock model takes no list either",
        )
    if config.vision_feature_select_strategy != "default":
        raise ModelUnsupported(
            "the class token among the patches, which then are no square",
            where="vision_feature_select_strategy",
            got=config.vision_feature_select_strategy,
            wanted="default",
        )
    spec = VisionSpec(
        family="internvl",
        hidden=tower.hidden_size,
        layers=tower.num_hidden_layers,
        heads=tower.num_attention_heads,
        feed_forward=tower.intermediate_size,
        image_size=square(tower.image_size, "vision_config.image_size"),
        patch_size=square(tower.patch_size, "vision_config.patch_size"),
        activation=activation(tower.hidden_act, "vision_config.hidden_act"),
        norm_eps=tower.layer_norm_eps,
        feature_layers=feature_layers(config.vision_feature_layer, tower.num_hidden_layers),
        drop_first=True,
        merge=_MERGES.get(config.downsample_ratio, 0),
        qkv_bias=tower.attention_bias,
        qk_norm=tower.use_qk_norm,
        rms_norm=_NORMS[tower.norm_type],
    )
    if not spec.merge or spec.grid < 1 or spec.grid % spec.merge:
        raise ModelUnsupported(
            "patches that cannot be merged into squares",
            where="downsample_ratio",
            got=config.downsample_ratio,
            wanted=f"{', '.join(map(str, _MERGES))}, which divides the tower's {spec.grid} x {spec.grid} patches",
        )
    return spec
