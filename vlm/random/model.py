"""Stock Hugging Face directories with random weights, for tests and for measuring speed.

Weights are scaled so that logits have a standard deviation of about 1 and layers and tokens matter, and are written
tensor by tensor, so that no model ever is in memory. Such a model can show speed and parity, never fidelity.

The tiny shapes answer in milliseconds. ``0.5b`` is the speed reference: a decoder of 0.5 billion parameters'
shape behind a CLIP-L/14-336-shaped tower, 576 image tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

from allrounder.errors import InputInvalid
from allrounder.progress import Progress, silent
from allrounder.vlm.config import read_spec
from allrounder.vlm.families import FAMILIES
from allrounder.vlm.random.text import EOS, IMAGE, VIDEO_ID, token_id, write_processor

__all__ = ["SHAPES", "TINY", "TINY_CANVASES", "Shape", "random_config", "write_random_checkpoint"]

Layout = Literal["older", "newer"]

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Shape:
    """A named config: what differs from the defaults of `random_config`."""

    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    top: dict[str, Any] = field(default_factory=dict)
    text_type: str = "llama"
    vision_type: str = "clip_vision_model"
    model_type: str = "llava"


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
}
# The small ones: parametrise a test over these.
TINY = tuple(name for name, shape in SHAPES.items() if name != "0.5b" and shape.model_type == "llava")
TINY_CANVASES = tuple(name for name, shape in SHAPES.items() if shape.model_type in ("llava_next", "llava_onevision"))


def random_config(shape: str | Shape) -> PreTrainedConfig:
    """Returns the config of a named shape, or of one made for the occasion.

    Raises:
        InputInvalid: There is no shape of that name.
        ModelUnsupported: The shape made for the occasion is not a model.
    """
    if isinstance(shape, str):
        if shape not in SHAPES:
            raise InputInvalid("there is no such random shape", got=shape, wanted=", ".join(SHAPES))
        shape = SHAPES[shape]
    text = {
        "vocab_size": 320,
        "hidden_size": 32,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": token_id(EOS),
        "pad_token_id": None,
    }
    vision = {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "image_size": 28,
        "patch_size": 14,
    }
    family = FAMILIES[shape.model_type]
    make: Any = family.config  # the library's types know no keywords of a family
    config: Any = make(
        text_config=AutoConfig.for_model(shape.text_type, **(text | shape.text)),
        vision_config=AutoConfig.for_model(shape.vision_type, **(vision | shape.vision)),
        image_token_index=token_id(IMAGE),
        **{"vision_feature_layer": -2, "vision_feature_select_strategy": "default", **shape.top},
    )
    spec = read_spec(config)
    if shape.model_type == "llava_onevision":
        config.video_token_index = VIDEO_ID
    else:
        config.image_seq_length = spec.image_tokens
    config.architectures = [family.model.__name__]
    return config


def write_random_checkpoint(
    directory: Path | str,
    shape: str | Shape = "llama-mha",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    layout: Layout = "older",
    progress: Progress = silent,
) -> Path:
    """Writes a stock directory: config, weights, tokenizer, processor, chat template, generation config.

    The weights depend on seed and shape alone: layouts and dtypes hold the same numbers, but for rounding.

    Args:
        directory: Made where it does not exist.
        shape: A name of `SHAPES`, or a shape.
        seed: Of the weights.
        dtype: float32, float16 or bfloat16.
        layout: "older": the names that transformers writes; "newer": those of its modules.
        progress: Gets the tensors.

    Returns:
        The directory.
    """
    out = Path(directory)
    out.mkdir(parents=True, exist_ok=True)
    config: Any = random_config(shape)
    config.dtype = dtype
    config.save_pretrained(out)
    text = config.text_config
    GenerationConfig(eos_token_id=text.eos_token_id, do_sample=False).save_pretrained(out)
    chat = "chatml" if text.model_type.startswith("qwen") else "vicuna"
    write_processor(out, config, chat=chat)
    with torch.device("meta"):
        empty = FAMILIES[str(config.model_type)].model(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    stored = {(_older(name) if layout == "older" else name): (name, dims) for name, dims in shapes.items()}
    scale = _scaler(text.hidden_size, tied=config.tie_word_embeddings)

    def tensors() -> Iterator[torch.Tensor]:
        for done, (name, dims) in enumerate(stored.values()):
            progress("writing random weights", done, len(stored))
            yield _random(name, dims, seed, scale).to(dtype)

    _write_safetensors(out / "model.safetensors", {name: dims for name, (_, dims) in stored.items()}, dtype, tensors())
    progress("writing random weights", len(stored), len(stored))
    return out


def _older(name: str) -> str:
    """Returns the name under which checkpoints of the LLaVA family on the hub hold a tensor."""
    name = name.removeprefix("model.")
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    if name.startswith("vision_tower."):
        return name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    return name.replace("language_model.", "language_model.model.", 1)


def _scaler(hidden: int, *, tied: bool) -> Callable[[str, tuple[int, ...]], tuple[float, float]]:
    """Returns a function from a weight's name and shape to the mean and standard deviation of its elements."""
    # A tied table serves as head too: rows of length 1, so that logits of normed hidden states have std 1.
    table = hidden**-0.5 if tied else 1.0

    def scale(name: str, dims: tuple[int, ...]) -> tuple[float, float]:
        if name.endswith("embed_tokens.weight"):
            return 0.0, table
        if name.endswith("image_newline"):
            return 0.0, 1.0  # as other image tokens: a forgotten one must show
        if "norm" in name and name.endswith("weight"):
            return 1.0, 0.1  # not all ones: a forgotten norm weight must show
        if len(dims) == 1 or "position_embedding" in name or name.endswith("probe"):
            return 0.0, 0.1
        fan_in = torch.Size(dims[1:]).numel()
        # Queries with some gain make attention choose, so that a dropped token shows; what is written to the
        # residual stream is damped, so that 24 layers stay sane.
        gain = 2.0 if "q_proj" in name else 0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
        return 0.0, gain * fan_in**-0.5

    return scale


def _random(
    name: str, dims: tuple[int, ...], seed: int, scale: Callable[[str, tuple[int, ...]], tuple[float, float]]
) -> torch.Tensor:
    own_seed = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little") >> 1
    mean, deviation = scale(name, dims)
    return torch.empty(dims).normal_(mean, deviation, generator=torch.Generator().manual_seed(own_seed))


def _write_safetensors(
    path: Path, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, tensors: Iterator[torch.Tensor]
) -> None:
    """Writes a safetensors file while the tensors are being made, in the order of ``shapes``."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dims in shapes.items():
        begin, end = end, end + torch.Size(dims).numel() * dtype.itemsize
        header[name] = {"dtype": _DTYPES[dtype], "shape": list(dims), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            tensor.contiguous().view(torch.uint8).numpy().tofile(file)
