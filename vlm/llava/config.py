"""LLaVA's config: read, checked, and turned into a `ModelSpec`.

It knows the config keys of `LlavaConfig`, of the Llama-like decoders (Llama, Mistral, Qwen2, Qwen3) and of the CLIP and
SigLIP towers; and what must be refused so that a removed token equals a masked one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import LlavaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from allrounder.errors import ModelUnreadable, ModelUnsupported
from allrounder.vlm.spec import DecoderSpec, ModelSpec, ProjectorSpec, RopeSpec, VisionSpec

__all__ = ["read_config", "read_spec"]

DECODER_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
VISION_FAMILIES = {"clip_vision_model": "clip", "siglip_vision_model": "siglip"}
# Every one of these is a fixed function of its input, and the exporter writes each with standard ops.
ACTIVATIONS = ("gelu", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu")
# Frequencies that do not depend on the length of the sequence. "dynamic" and "longrope" do: there a pruned
# run and a masked one could disagree about which length counts.
STATIC_ROPES = ("default", "linear", "llama3", "yarn")


def read_config(directory: Path | str) -> LlavaConfig:
    """Returns the stock config of a model directory.

    Raises:
        ModelUnreadable: There is no readable ``config.json``.
        ModelUnsupported: It is not a Llava whose parts are known; names the key.
    """
    path = Path(directory) / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnreadable(
            "no readable config.json", where=path, got=error, remedy="give a Hugging Face model directory"
        ) from error
    if not isinstance(raw, dict):
        raise ModelUnreadable("config.json is not an object", where=path, got=type(raw).__name__)
    # Before transformers sees it: its own errors for unknown types name no key, and a quantised one needs packages.
    _check_model_types(raw)
    try:
        return LlavaConfig.from_pretrained(str(directory), local_files_only=True)
    except (StrictDataclassError, OSError, ValueError, TypeError, KeyError) as error:
        raise ModelUnsupported("transformers does not accept this config", where=path, got=error) from error


def read_spec(config: LlavaConfig) -> ModelSpec:
    """Returns the spec of a Hugging Face config.

    Raises:
        ModelUnsupported: Something that pruning does not understand, or that would make a removed token differ
            from a masked one. ``where`` is the config key.
    """
    _check_model_types(config.to_dict())
    decoder, vision = _decoder(config), _vision(config)
    image_tokens = vision.rows - vision.drop_first
    if image_tokens < 1:
        raise ModelUnsupported("the tower gives no image token", where="vision_config.image_size", got=image_tokens)
    if not 0 <= config.image_token_id < decoder.vocabulary:
        raise ModelUnsupported(
            "the image token is outside the vocabulary",
            where="image_token_index",
            got=config.image_token_id,
            wanted=f"0 to {decoder.vocabulary - 1}",
        )
    projector = ProjectorSpec(
        inputs=vision.hidden * len(vision.feature_layers),
        hidden=decoder.hidden,
        activation=_activation(config.projector_hidden_act, "projector_hidden_act"),
        bias=config.multimodal_projector_bias,
    )
    return ModelSpec(config.model_type, decoder, vision, projector, image_tokens, config.image_token_id)


def _check_model_types(raw: dict[str, Any]) -> None:
    _one_of(raw.get("model_type"), "model_type", ("llava",), "prune a Llava checkpoint; text-only models have no image")
    for part, known in (("text_config", DECODER_FAMILIES), ("vision_config", tuple(VISION_FAMILIES))):
        inner = raw.get(part) or {}
        _one_of(inner.get("model_type", known[0]), f"{part}.model_type", known, None)
    for where, holder in (("", raw), ("text_config.", raw.get("text_config") or {})):
        if holder.get("quantization_config") is not None:
            raise ModelUnsupported(
                "quantised weights cannot be pruned into graphs",
                where=f"{where}quantization_config",
                remedy="use the checkpoint in float32, bfloat16 or float16",
            )


def _one_of(got: object, where: str, wanted: tuple[str, ...], remedy: str | None) -> None:
    if got not in wanted:
        raise ModelUnsupported(
            "this kind of model is not supported", where=where, got=got, wanted=" or ".join(wanted), remedy=remedy
        )


def _activation(name: str, where: str) -> str:
    if name not in ACTIVATIONS:
        raise ModelUnsupported("unknown activation", where=where, got=name, wanted=", ".join(ACTIVATIONS))
    return name


def _decoder(config: LlavaConfig) -> DecoderSpec:
    text: Any = config.text_config
    family = text.model_type
    heads, kv_heads = text.num_attention_heads, text.num_key_value_heads or text.num_attention_heads
    if heads % kv_heads:
        raise ModelUnsupported(
            "heads do not divide into kv heads", where="text_config.num_key_value_heads", got=f"{heads} / {kv_heads}"
        )
    _check_attention(text)
    attention_bias = bool(getattr(text, "attention_bias", False)) and family in ("llama", "qwen3")
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    return DecoderSpec(
        family=family,
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        feed_forward=text.intermediate_size,
        vocabulary=text.vocab_size,
        activation=_activation(text.hidden_act, "text_config.hidden_act"),
        norm_eps=text.rms_norm_eps,
        qkv_bias=family == "qwen2" or attention_bias,
        o_bias=attention_bias,
        mlp_bias=bool(getattr(text, "mlp_bias", False)) and family == "llama",
        qk_norm=family == "qwen3",
        tied=bool(config.tie_word_embeddings),
        max_positions=text.max_position_embeddings,
        rope=_rope(text, head_dim),
    )


def _check_attention(text: Any) -> None:
    """Refuses attention that is not plain causal over everything before.

    A window counts rows, and removing rows changes which ones it reaches. It is harmless only where the longest
    sequence fits into it.
    """
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if kinds - {"full_attention", "sliding_attention"}:
        raise ModelUnsupported(
            "unknown kind of attention", where="text_config.layer_types", got=", ".join(sorted(kinds)), wanted="full"
        )
    window = getattr(text, "sliding_window", None)
    windowed = text.model_type == "mistral" or "sliding_attention" in kinds
    if windowed and window is not None and window < text.max_position_embeddings:
        raise ModelUnsupported(
            "a sliding window would bind, and removing tokens would change what it reaches",
            where="text_config.sliding_window",
            got=window,
            wanted=f"null, or at least max_position_embeddings ({text.max_position_embeddings})",
            remedy="if your sequences fit into the window, lower max_position_embeddings to it in config.json",
        )
    if not getattr(text, "is_causal", True):
        raise ModelUnsupported("the decoder is not causal", where="text_config.is_causal", got=False, wanted=True)


def _rope(text: Any, head_dim: int) -> RopeSpec:
    settings = text.rope_parameters
    kind = settings.get("rope_type", "default") if isinstance(settings, dict) else None
    if kind not in STATIC_ROPES:
        raise ModelUnsupported(
            "rotary frequencies that depend on the length of the sequence, or are unknown",
            where="text_config.rope_parameters.rope_type",
            got=kind,
            wanted=", ".join(STATIC_ROPES),
        )
    if settings.get("partial_rotary_factor", 1.0) != 1.0:
        raise ModelUnsupported(
            "partly rotated heads",
            where="text_config.rope_parameters.partial_rotary_factor",
            got=settings["partial_rotary_factor"],
            wanted=1.0,
        )
    if kind == "default":
        # As in transformers' `compute_default_rope_parameters`, all in float32: angles are equal bit by bit.
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim
        frequencies, scale = 1.0 / (settings["rope_theta"] ** exponents), 1.0
    else:
        frequencies, scale = ROPE_INIT_FUNCTIONS[kind](text)
    return RopeSpec(kind, tuple(frequencies.tolist()), float(scale))


def _vision(config: LlavaConfig) -> VisionSpec:
    tower: Any = config.vision_config
    if tower.num_channels != 3:
        raise ModelUnsupported("not RGB", where="vision_config.num_channels", got=tower.num_channels, wanted=3)
    return VisionSpec(
        family=VISION_FAMILIES[tower.model_type],
        hidden=tower.hidden_size,
        layers=tower.num_hidden_layers,
        heads=tower.num_attention_heads,
        feed_forward=tower.intermediate_size,
        image_size=_square(tower.image_size, "vision_config.image_size"),
        patch_size=_square(tower.patch_size, "vision_config.patch_size"),
        activation=_activation(tower.hidden_act, "vision_config.hidden_act"),
        norm_eps=tower.layer_norm_eps,
        feature_layers=_feature_layers(config.vision_feature_layer, tower.num_hidden_layers),
        drop_first=config.vision_feature_select_strategy == "default",
    )


def _square(size: Any, where: str) -> int:
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or sides[0] != sides[1]:
        raise ModelUnsupported("not a square", where=where, got=size, wanted="one whole number")
    return sides[0]


def _feature_layers(layers: int | list[int], depth: int) -> tuple[int, ...]:
    """Returns indices into the tower's depth + 1 hidden states, none negative."""
    listed = [layers] if isinstance(layers, int) else list(layers)
    if not listed or not all(-depth - 1 <= layer <= depth for layer in listed):
        raise ModelUnsupported(
            "a vision layer that the tower does not have",
            where="vision_feature_layer",
            got=layers,
            wanted=f"{-depth - 1} to {depth}",
        )
    return tuple(layer % (depth + 1) for layer in listed)
