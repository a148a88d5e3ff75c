"""Tensors of the LLaVA family: names on disk to canonical ones (`allrounder.vlm.checkpoint`), and the stock model's.

Its members have the same parts: ``language_model``, ``vision_tower``, ``multi_modal_projector``, and some a newline.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from allrounder.errors import ModelUnsupported

__all__ = ["canonical_name", "never_computed", "stock_shapes"]

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


def never_computed(name: str) -> bool:
    """Whether no model computes with a tensor of this canonical name, even where the tower has it."""
    return name.startswith(("vision.post_layernorm.", "vision.head."))


def stock_shapes(model: type[PreTrainedModel], config: PreTrainedConfig, directory: Path) -> dict[str, tuple[int, ...]]:
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
    named = ((canonical_name(stored), tuple(tensor.shape)) for stored, tensor in empty.state_dict().items())
    return {name: shape for name, shape in named if name is not None}
