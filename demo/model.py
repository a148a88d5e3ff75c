"""The demo model's shape, and how it becomes a stock Hugging Face directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from allrounder.demo.scenes import CELL, GRID, IMAGE_PX, PATCH_PX, WINDOWS, Window
from allrounder.demo.tiles import BASE_TOKENS, TILE_PX
from allrounder.demo.tokenizer import CHAT_TEMPLATE, IMAGE, MAX_LENGTH

IMAGE_TOKENS = GRID * GRID
PIXEL_MEAN, PIXEL_STD = 0.5, 0.5
ASPECT = "anyres_max_9"
VIDEO = "<video>"  # the stock name; no text has it
POSITIONS = "model.vision_tower.embeddings.position_embedding.weight"
NEWLINE = "model.image_newline"


@dataclass(frozen=True)
class Shape:
    """The sizes that may be chosen; the defaults are the first shipped model's.

    With ``windows`` it is a LLaVA-OneVision whose images are windows cut into tiles, else a LLaVA.
    """

    hidden: int = 128
    layers: int = 24
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 256
    tower_hidden: int = 128
    tower_layers: int = 6
    tower_heads: int = 4
    tower_feed_forward: int = 384
    windows: tuple[Window, ...] = ()


SHIPPED = Shape()
TINY = Shape(hidden=32, layers=3, heads=2, kv_heads=1, feed_forward=64, tower_hidden=32, tower_layers=1, tower_heads=2)
SHIPPED_TILES, TINY_TILES = replace(SHIPPED, windows=WINDOWS), replace(TINY, windows=WINDOWS)
DemoConfig = LlavaConfig | LlavaOnevisionConfig
DemoModel = LlavaForConditionalGeneration | LlavaOnevisionForConditionalGeneration


def build_config(tokenizer: PreTrainedTokenizerFast, shape: Shape = SHIPPED) -> DemoConfig:
    """The stock configuration of the demo model."""
    ids: Any = tokenizer  # the library's types allow its ids to be lists and text
    vision = CLIPVisionConfig(
        hidden_size=shape.tower_hidden,
        intermediate_size=shape.tower_feed_forward,
        num_hidden_layers=shape.tower_layers,
        num_attention_heads=shape.tower_heads,
        image_size=TILE_PX if shape.windows else IMAGE_PX,
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
    parts: dict[str, Any] = {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": ids.convert_tokens_to_ids(IMAGE),
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": False,
    }
    if not shape.windows:
        return LlavaConfig(**parts, image_seq_length=IMAGE_TOKENS)
    return LlavaOnevisionConfig(
        **parts,
        image_grid_pinpoints=canvases(shape.windows),
        vision_aspect_ratio=ASPECT,
        video_token_index=len(tokenizer),  # an id that no text has: there are no videos
    )


def canvases(windows: Sequence[Window]) -> list[list[int]]:
    """The canvases of windows as the stock settings have them: height and width in pixels."""
    return [[window.height_px, window.width_px] for window in windows]


def build_model(tokenizer: PreTrainedTokenizerFast, shape: Shape = SHIPPED, seed: int = 0) -> DemoModel:
    """A model with random float32 weights; the layers' outputs start small, as deep decoders want."""
    torch.manual_seed(seed)
    config = build_config(tokenizer, shape)
    model = model_of(config)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for linear in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
                torch.nn.init.normal_(linear.weight, std=shape.hidden**-0.5)
            torch.nn.init.normal_(attention.o_proj.weight, std=(2 * shape.layers * shape.hidden) ** -0.5)
            torch.nn.init.normal_(mlp.down_proj.weight, std=(2 * shape.layers * shape.feed_forward) ** -0.5)
        torch.nn.init.normal_(model.model.language_model.embed_tokens.weight, std=1.0)
    return model


def model_of(config: DemoConfig) -> DemoModel:
    """The stock model of ``config``."""
    if isinstance(config, LlavaOnevisionConfig):
        return LlavaOnevisionForConditionalGeneration(config)
    return LlavaForConditionalGeneration(config)


def load_model(path: Path) -> DemoModel:
    """The model of a demo directory in float32."""
    config: Any = AutoConfig.from_pretrained(path)
    kind: Any = type(model_of(config))
    return kind.from_pretrained(path, dtype=torch.float32)


def weights_from(saved: DemoModel, model: DemoModel) -> dict[str, torch.Tensor]:
    """The weights of ``saved`` as ``model`` takes them.

    A LLaVA becomes a LLaVA-OneVision: its tower takes a tile for the cell in the middle of the world. The newline,
    which it lacks, stays that of ``model``.
    """
    weights = dict(saved.state_dict())
    if type(saved) is type(model):
        return weights
    table = weights[POSITIONS]
    rest = table[1:].reshape(GRID, GRID, -1)[CELL : 2 * CELL, CELL : 2 * CELL].flatten(0, 1)
    weights[POSITIONS] = torch.cat([table[:1], rest])
    weights[NEWLINE] = model.state_dict()[NEWLINE]
    return weights


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


def save_tile_processor(tokenizer: PreTrainedTokenizerFast, pinpoints: list[list[int]], out: Path) -> None:
    """Write what the stock processor is made of; the class itself wants torchvision. ``pinpoints``: the canvases."""
    images = LlavaOnevisionImageProcessorPil(
        size={"height": TILE_PX, "width": TILE_PX},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
        image_grid_pinpoints=pinpoints,
    )
    settings = {
        "processor_class": "LlavaOnevisionProcessor",
        "image_processor": json.loads(images.to_json_string()),
        "image_token": IMAGE,
        "video_token": VIDEO,
        "num_image_tokens": BASE_TOKENS + 1,  # with the class token, which "default" takes off again
        "vision_aspect_ratio": ASPECT,
        "vision_feature_select_strategy": "default",
    }
    tokenizer.save_pretrained(out)
    (out / "processor_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def save_model(model: DemoModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the stock directory: bfloat16 weights, configuration, tokenizer, processor, chat template."""
    out.mkdir(parents=True, exist_ok=True)
    config: Any = model.config
    copy = model_of(config)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False, max_new_tokens=16
    )
    copy.bfloat16().save_pretrained(out)
    if isinstance(config, LlavaOnevisionConfig):
        save_tile_processor(tokenizer, config.image_grid_pinpoints or [], out)
    else:
        build_processor(tokenizer).save_pretrained(out)
    # The name of the tokenizer class that every version of transformers knows.
    path = out / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    (out / "model.safetensors").chmod(0o644)
