"""The language model of a config: its ``text_config``, read, checked, and turned into a `DecoderSpec`.

It knows the config keys of the Llama-like decoders (Llama, Mistral, Qwen2, Qwen3), and what must be refused so that a
removed token equals a masked one.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from allrounder.errors import ModelUnsupported
from allrounder.vlm.parts.activations import activation
from allrounder.vlm.spec import DecoderSpec, RopeSpec

__all__ = ["DECODER_FAMILIES", "decoder_spec"]

DECODER_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
# Frequencies that do not depend on the length of the sequence. "dynamic" and "longrope" do: there a pruned
# run and a masked one could disagree about which length counts.
STATIC_ROPES = ("default", "linear", "llama3", "yarn")


def decoder_spec(config: Any) -> DecoderSpec:
    """Returns the spec of a config's language model.

    Raises:
        ModelUnsupported: Something that pruning does not understand; ``where`` is the config key.
    """
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
        activation=activation(text.hidden_act, "text_config.hidden_act"),
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
