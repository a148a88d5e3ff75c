"""The demo model's shape, and how it becomes a stock Hugging Face directory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from allrounder.demo.scenes import GRID, IMAGE_PX, PATCH_PX
from allrounder.demo.tokenizer import CHAT_TEMPLATE, IMAGE, MAX_LENGTH

IMAGE_TOKENS = GRID * GRID
PIXEL_MEAN, PIXEL_STD = 0.5, 0.5


@dataclass(frozen=True)
class Shape:
    """The sizes that may be chosen; the defaults are the shipped model's."""

    hidden: int = 128
    layers: int = 24
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 256
    tower_hidden: int = 128
    tower_layers: int = 6
    tower_heads: int = 4
    tower_feed_forward: int = 384


SHIPPED = Shape()
TINY = Shape(hidden=32, layers=3, heads=2, kv_heads=1, feed_forward=64, tower_hidden=32, tower_layers=1, tower_heads=2)


def build_config(tokenizer: PreTrainedTokenizerFast, shape: Shape = SHIPPED) -> LlavaConfig:
    """The stock configuration of the demo model."""
    ids: Any = tokenizer  # the library's types allow its ids to be lists and text
    vision = CLIPVisionConfig(
        hidden_size=shape.tower_hidden,
        intermediate_size=shape.tower_feed_forward,
        num_hidden_layers=shape.tower_layers,
        num_attention_heads=shape.tower_heads,
        image_size=IMAGE_PX,
        patch_size=PATCH_PX,
        projection_dim=shape.tower_hidden,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.hidden // shape.heads,
        max_position_embeddings=MAX_LENGTH,
        rms_norm_eps=1e-5,
        bos_token_id=None,
        eos_token_id=ids.eos_token_id,
        pad_token_id=ids.pad_token_id,
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids.convert_tokens_to_ids(IMAGE),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, shape: Shape = SHIPPED, seed: int = 0
) -> LlavaForConditionalGeneration:
    """A model with random float32 weights; the layers' outputs start small, as deep decoders want."""
    torch.manual_seed(seed)
    config = build_config(tokenizer, shape)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for linear in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
                torch.nn.init.normal_(linear.weight, std=shape.hidden**-0.5)
            torch.nn.init.normal_(attention.o_proj.weight, std=(2 * shape.layers * shape.hidden) ** -0.5)
            torch.nn.init.normal_(mlp.down_proj.weight, std=(2 * shape.layers * shape.feed_forward) ** -0.5)
        torch.nn.init.normal_(model.model.language_model.embed_tokens.weight, std=1.0)
    return model


def build_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """The stock processor; its image side runs on Pillow, so that torchvision is not needed."""
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_PX},
        crop_size={"height": IMAGE_PX, "width": IMAGE_PX},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )


def save_model(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the stock directory: bfloat16 weights, configuration, tokenizer, processor, chat template."""
    out.mkdir(parents=True, exist_ok=True)
    copy = LlavaForConditionalGeneration(model.config)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False, max_new_tokens=16
    )
    copy.bfloat16().save_pretrained(out)
    build_processor(tokenizer).save_pretrained(out)
    # The name of the tokenizer class that every version of transformers knows.
    path = out / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    (out / "model.safetensors").chmod(0o644)
