"""Named shapes of random models.

The tiny ones answer in milliseconds. ``0.5b`` is the speed reference: a decoder of 0.5 billion parameters' shape behind
a CLIP-L/14-336-shaped tower, 576 image tokens. ``onevision-0.5b`` is the one with tiles: Qwen2-0.5B's decoder behind
SigLIP-so400m's tower, 729 tokens a tile, up to 36 tiles and the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["LARGE", "SHAPES", "TINY", "TINY_CANVASES", "TINY_TILES", "Shape"]


@dataclass(frozen=True)
class Shape:
    """A named config: what differs from the defaults of `random_config`."""

    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    top: dict[str, Any] = field(default_factory=dict)
    text_type: str = "llama"
    vision_type: str = "clip_vision_model"
    model_type: str = "llava"
    images: dict[str, Any] = field(default_factory=dict)  # of the image processor


_SIGLIP_9 = {"image_size": 42, "hidden_act": "gelu_pytorch_tanh"}
_SIGLIP_16 = {"image_size": 56, "hidden_act": "gelu_pytorch_tanh"}
_LONG = {"max_position_embeddings": 1024}
_ONEVISION = {
    "vision_feature_select_strategy": "full",
    "vision_feature_layer": -1,
    "image_grid_pinpoints": [[42 * rows, 42 * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)],
}
SHAPES: dict[str, Shape] = {
    # Llama: as many kv heads as heads, a head of its own. The plainest one.
    "llama-mha": Shape(text={"num_key_value_heads": 4}),
    # Grouped queries, tied head, 16 image tokens.
    "llama-gqa-tied": Shape(text={"tie_word_embeddings": True}, vision={"image_size": 56}),
    # head_dim that is not hidden / heads; every bias there is; a select strategy that keeps the class token.
    "llama-wide-bias": Shape(
        text={
            "head_dim": 16,
            "attention_bias": True,
            "mlp_bias": True,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
        },
        vision={"image_size": 42},
        top={"vision_feature_select_strategy": "full"},
    ),
    # The rotary frequencies that Llama 3 stretches; two vision layers side by side.
    "llama-rope3-layers": Shape(
        text={
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
        top={"vision_feature_layer": [1, -2]},
    ),
    "llama-linear-nobias": Shape(
        text={"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
        top={"multimodal_projector_bias": False, "vision_feature_layer": -1},
    ),
    "mistral": Shape(text_type="mistral", text={"sliding_window": None}, vision={"image_size": 42}),
    "qwen2-siglip": Shape(
        text_type="qwen2",
        text={"tie_word_embeddings": True},
        vision_type="siglip_vision_model",
        vision=_SIGLIP_16,
        top={"vision_feature_select_strategy": "full", "vision_feature_layer": -1},
    ),
    "qwen3-siglip-layers": Shape(
        text_type="qwen3",
        text={"head_dim": 12},
        vision_type="siglip_vision_model",
        vision=_SIGLIP_16,
        top={"vision_feature_select_strategy": "full", "vision_feature_layer": [1, 3]},
    ),
    # LLaVA-NeXT: 9 tokens a tile, canvases of 2 to 4 tiles.
    "next-clip-mistral": Shape(
        model_type="llava_next",
        text_type="mistral",
        text={"sliding_window": None, **_LONG},
        vision={"image_size": 42},
        top={"image_grid_pinpoints": [[42, 84], [84, 42], [84, 84], [126, 42], [42, 126]]},
    ),
    "next-siglip-llama": Shape(
        model_type="llava_next",
        text=_LONG,
        vision_type="siglip_vision_model",
        vision=_SIGLIP_9,
        top={
            "vision_feature_select_strategy": "full",
            "vision_feature_layer": [1, -1],
            "image_grid_pinpoints": [[42, 42], [42, 126], [84, 84]],
        },
    ),
    # LLaVA-OneVision: canvases of 1 to 9 tiles, interpolated down to about 2.
    "onevision-siglip-qwen2": Shape(
        model_type="llava_onevision",
        text_type="qwen2",
        text={"tie_word_embeddings": True, **_LONG},
        vision_type="siglip_vision_model",
        vision=_SIGLIP_9,
        top={**_ONEVISION, "tie_word_embeddings": True, "vision_aspect_ratio": "anyres_max_2"},
    ),
    "onevision-siglip-qwen3": Shape(
        model_type="llava_onevision",
        text_type="qwen3",
        text={"head_dim": 12, **_LONG},
        vision_type="siglip_vision_model",
        vision=_SIGLIP_9,
        top={**_ONEVISION, "vision_aspect_ratio": "anyres_max_9"},
    ),
    # InternVL: 4 tokens a tile, grids of 1 to 6 tiles and the whole image.
    "internvl-qwen2": Shape(
        model_type="internvl",
        text_type="qwen2",
        text={"tie_word_embeddings": True, **_LONG},
        vision_type="internvl_vision",
        vision={"image_size": 56, "attention_bias": True},
        top={"tie_word_embeddings": True, "vision_feature_layer": -1},
        images={"max_patches": 6},
    ),
    # As InternVL3-38B's tower: RMS norms, also over queries and keys, no bias there; 16 patches a token; 2 to 4 tiles.
    "internvl-qwen3": Shape(
        model_type="internvl",
        text_type="qwen3",
        text={"head_dim": 12, **_LONG},
        vision_type="internvl_vision",
        vision={"image_size": 48, "patch_size": 6, "norm_type": "rms_norm", "use_qk_norm": True},
        top={"tie_word_embeddings": False, "downsample_ratio": 0.25},
        images={"min_patches": 2, "max_patches": 4},
    ),
    # SmolVLM: 4 tokens a tile, 2 to 9 tiles and the whole image.
    "smolvlm-llama": Shape(
        model_type="smolvlm",
        text=_LONG,
        vision_type="smolvlm_vision",
        vision={"image_size": 56},
        images={"size": {"longest_edge": 168}},
    ),
    # The whole image alone, as SmolVLM sees a frame of a video.
    "smolvlm-whole": Shape(
        model_type="smolvlm",
        text=_LONG,
        vision_type="smolvlm_vision",
        vision={"image_size": 42},
        top={"scale_factor": 1},
        images={"size": {"longest_edge": 42}, "do_image_splitting": False},
    ),
    # Idefics3: 9 patches a token, 2 or 4 tiles and the whole image; marks that its tokenizer spells out.
    "idefics3-llama": Shape(
        model_type="idefics3",
        text={"tie_word_embeddings": True, "num_key_value_heads": 4, **_LONG},
        vision_type="idefics3_vision",
        vision={"image_size": 42, "patch_size": 7},
        top={"tie_word_embeddings": True, "scale_factor": 3},
        images={"size": {"longest_edge": 84}},
    ),
    "0.5b": Shape(
        text={
            "hidden_size": 896,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "intermediate_size": 4864,
            "vocab_size": 32000,
            "max_position_embeddings": 4096,
        },
        vision={
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "image_size": 336,
        },
        top={"vision_feature_layer": -2},
    ),
    # As llava-hf/llava-onevision-qwen2-0.5b-ov-hf: its tower has 26 of SigLIP's 27 layers.
    "onevision-0.5b": Shape(
        model_type="llava_onevision",
        text_type="qwen2",
        text={
            "hidden_size": 896,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "intermediate_size": 4864,
            "vocab_size": 152000,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
            "tie_word_embeddings": True,
        },
        vision_type="siglip_vision_model",
        vision={
            "hidden_size": 1152,
            "num_hidden_layers": 26,
            "num_attention_heads": 16,
            "intermediate_size": 4304,
            "image_size": 384,
            "hidden_act": "gelu_pytorch_tanh",
            "vision_use_head": False,
        },
        top={
            "vision_feature_select_strategy": "full",
            "vision_feature_layer": -1,
            "image_grid_pinpoints": [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)],
            "vision_aspect_ratio": "anyres_max_9",
            "tie_word_embeddings": True,
        },
    ),
}
LARGE = ("0.5b", "onevision-0.5b")
# The small ones: parametrise a test over these.
TINY = tuple(name for name, shape in SHAPES.items() if name not in LARGE and shape.model_type == "llava")
# Those of families whose images are tiles; the suite of `tests/parity/test_families.py` runs over them.
TINY_TILES = tuple(name for name, shape in SHAPES.items() if name not in LARGE and shape.model_type != "llava")
TINY_CANVASES = tuple(name for name in TINY_TILES if SHAPES[name].model_type in ("llava_next", "llava_onevision"))
