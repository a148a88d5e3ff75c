"""Known models: public configs by name, to estimate memory before anything is downloaded."""

from __future__ import annotations

from typing import Any

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from allrounder.errors import InputInvalid
from allrounder.vlm.config import read_spec
from allrounder.vlm.spec import ModelSpec

__all__ = ["KNOWN", "known_spec"]

_TOWER: dict[str, Any] = {  # CLIP-L/14 at 336 pixels: 576 image tokens
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
_TEXT: dict[str, Any] = {"vocab_size": 32064, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
KNOWN: dict[str, dict[str, Any]] = {
    "llava-1.5-7b": {  # LLaVA-1.5 (Liu et al. 2023), as its Hugging Face port stores it
        **_TEXT,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "llava-1.5-13b": {
        **_TEXT,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    },
}


def known_spec(name: str) -> ModelSpec:
    """Returns the spec of a known model.

    Raises:
        InputInvalid: It is not one of `KNOWN`.
    """
    if name not in KNOWN:
        raise InputInvalid("not a known model", got=name, wanted=f"a directory with config.json, or {', '.join(KNOWN)}")
    config = LlavaConfig(
        text_config=LlamaConfig(**KNOWN[name]),
        vision_config=CLIPVisionConfig(**_TOWER),
        image_token_index=32000,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return read_spec(config)
