"""Stock Hugging Face directories with random weights, for tests and for measuring speed.

Weights are scaled so that logits have a standard deviation of about 1 and layers and tokens matter, and are written
tensor by tensor, so that no model ever is in memory. Such a model can show speed and parity, never fidelity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

from allrounder.errors import InputInvalid
from allrounder.progress import Progress, silent
from allrounder.vlm.config import read_spec
from allrounder.vlm.families import FAMILIES
from allrounder.vlm.parts.names import Names
from allrounder.vlm.random.shapes import LARGE, SHAPES, TINY, TINY_CANVASES, TINY_TILES, Shape
from allrounder.vlm.random.text import EOS, VIDEO_ID, image_token_id, token_id, write_processor

__all__ = [
    "LARGE",
    "SHAPES",
    "TINY",
    "TINY_CANVASES",
    "TINY_TILES",
    "Shape",
    "random_config",
    "write_random_checkpoint",
]

Layout = Literal["older", "newer"]

_UTTERANCES = ("smolvlm", "idefics3")  # families with a template of their own, and fewer keys
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def random_config(shape: str | Shape) -> PreTrainedConfig:
    """Returns the config of a named shape, or of one made for the occasion.

    Raises:
        InputInvalid: There is no shape of that name.
        ModelUnsupported: The shape made for the occasion is not a model.
    """
    shape = _shape(shape)
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
    make: Any = family.config
    fewer = shape.model_type in _UTTERANCES
    features = {} if fewer else {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
    token = "image_token_index" if shape.model_type.startswith("llava") else "image_token_id"
    config = make(
        text_config=AutoConfig.for_model(shape.text_type, **(text | shape.text)),
        vision_config=AutoConfig.for_model(shape.vision_type, **(vision | shape.vision)),
        **{token: image_token_id(shape.model_type)},
        **{**features, **shape.top},
    )
    spec = read_spec(config)
    if shape.model_type == "llava_onevision":
        config.video_token_index = VIDEO_ID
    elif not fewer:
        config.image_seq_length = spec.image_tokens
    config.architectures = [family.model.__name__]
    return config


def _shape(shape: str | Shape) -> Shape:
    if isinstance(shape, Shape):
        return shape
    if shape not in SHAPES:
        raise InputInvalid("there is no such random shape", got=shape, wanted=", ".join(SHAPES))
    return SHAPES[shape]


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
        layout: "older": the names of checkpoints on the hub; "newer": those of transformers' modules.
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
    if config.model_type in _UTTERANCES:
        chat = "utterances"
    write_processor(out, config, chat=chat, images=_shape(shape).images)
    family = FAMILIES[str(config.model_type)]
    with torch.device("meta"):
        empty = family.model(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    stored = {
        (_older(name, family.names) if layout == "older" else name): (name, dims) for name, dims in shapes.items()
    }
    scale = _scaler(text.hidden_size, tied=config.tie_word_embeddings)

    def tensors() -> Iterator[torch.Tensor]:
        for done, (name, dims) in enumerate(stored.values()):
            progress("writing random weights", done, len(stored))
            yield _random(name, dims, seed, scale).to(dtype)

    _write_safetensors(out / "model.safetensors", {name: dims for name, (_, dims) in stored.items()}, dtype, tensors())
    progress("writing random weights", len(stored), len(stored))
    return out


def _older(name: str, names: Names) -> str:
    """Returns the name under which checkpoints on the hub hold a tensor of the stock model."""
    return names.written(names.canonical(name) or "")


def _scaler(hidden: int, *, tied: bool) -> Callable[[str, tuple[int, ...]], tuple[float, float]]:
    """Returns a function from a weight's name and shape to the mean and standard deviation of its elements."""
    # A tied table serves as head too: rows of length 1, so that logits of normed hidden states have std 1.
    table = hidden**-0.5 if tied else 1.0

    def scale(name: str, dims: tuple[int, ...]) -> tuple[float, float]:
        if name.endswith("embed_tokens.weight"):
            return 0.0, table
        if name.endswith("image_newline"):
            return 0.0, 1.0  # as other image tokens: a forgotten one must show
        if "lambda_" in name:
            return 1.0, 0.3
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
