"""Names of tensors: those on disk to canonical ones (`allrounder.vlm.checkpoint`), and those to those of the hub.

The LLaVA family's members have the same parts: ``language_model``, ``vision_tower``, ``multi_modal_projector``, and
some a newline. Families that call theirs otherwise have `Names` of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from allrounder.errors import ModelUnsupported

__all__ = ["LLAVA", "Names", "canonical_name", "never_computed", "stock_shapes", "written_name"]


class Names(NamedTuple):
    """What a family calls its tensors."""

    canonical: Callable[[str], str | None]  # of a name on disk; None: a buffer that the config implies
    written: Callable[[str], str]  # of a canonical name, in a checkpoint for others


# In order, the first that matches. Older transformers wrote `language_model.model.layers...` and
# `vision_tower.vision_model...`, newer ones `model.language_model.layers...` and `model.vision_tower...`;
# 5.x reads both and writes the older names, without `vision_model`; it finds no head below `model.language_model`.
_LAYOUTS = (
    (re.compile(r"^(?:language_model\.|model\.)?lm_head\."), "decoder.lm_head."),
    (re.compile(r"^(?:model\.)?language_model\.(?:model\.)?(?!lm_head\.)"), "decoder."),
    (re.compile(r"^(?:model\.)?vision_tower\.(?:vision_model\.)?"), "vision."),
    (re.compile(r"^(?:model\.)?multi_modal_projector\."), "projector."),
    (re.compile(r"^(?:model\.)?(?=image_newline$)"), "projector."),
)
# From canonical names to those of llava-1.5-7b-hf: the one layout that transformers 4 and 5, vLLM and SGLang map alike.
# Newer transformers writes the tower without `vision_model`, and vLLM 0.32 finds no module for that:
# https://github.com/vllm-project/vllm/blob/v0.32.0/vllm/model_executor/models/llava.py (`hf_to_vllm_mapper`)
# https://github.com/sgl-project/sglang/blob/main/python/sglang/srt/models/llava.py (`load_weights`)
_WRITTEN = (
    ("decoder.lm_head.", "language_model.lm_head."),
    ("decoder.", "language_model.model."),
    ("vision.", "vision_tower.vision_model."),
    ("projector.image_newline", "image_newline"),
    ("projector.", "multi_modal_projector."),
)
# Buffers that old checkpoints carry and that the config implies.
_DERIVED = re.compile(r"(?:\.position_ids|\.rotary_emb\.inv_freq)$")


def canonical_name(stored: str) -> str | None:
    """Returns the canonical name of a tensor on disk; None for buffers that the config implies.

    A name that belongs to no part of such a model comes back as it is.
    """
    if _DERIVED.search(stored):
        return None
    for pattern, prefix in _LAYOUTS:
        if pattern.match(stored):
            return pattern.sub(prefix, stored, count=1)
    return stored


def written_name(name: str) -> str:
    """Returns what llava-1.5-7b-hf on the hub calls a tensor of this canonical name.

    Raises:
        ModelUnsupported: It is of no part of such a model.
    """
    for canonical, written in _WRITTEN:
        if name.startswith(canonical):
            return written + name.removeprefix(canonical)
    raise ModelUnsupported("a weight belongs to no part of the model", where=name)


LLAVA: Final = Names(canonical_name, written_name)


def never_computed(name: str) -> bool:
    """Whether no model computes with a tensor of this canonical name, even where the tower has it."""
    return name.startswith(("vision.post_layernorm.", "vision.head."))


def stock_shapes(
    model: type[PreTrainedModel], names: Names, config: PreTrainedConfig, directory: Path
) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor of the stock model, by canonical name.

    Raises:
        ModelUnsupported: transformers cannot make a model of the config of ``directory``.
    """
    try:
        with torch.device("meta"):  # shapes only
            empty = model(config)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ModelUnsupported(
            "transformers cannot make a model of this config", where=directory / "config.json", got=error
        ) from error
    named = ((names.canonical(stored), tuple(tensor.shape)) for stored, tensor in empty.state_dict().items())
    return {name: shape for name, shape in named if name is not None}
