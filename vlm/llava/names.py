"""Names of LLaVA's tensors: from those on disk to the canonical ones (`allrounder.vlm.checkpoint`)."""

from __future__ import annotations

import re

__all__ = ["canonical_name", "never_computed"]

# In order, the first that matches. Older transformers wrote `language_model.model.layers...` and
# `vision_tower.vision_model...`, newer ones `model.language_model.layers...` and `model.vision_tower...`;
# 5.x reads both and writes the older names, without `vision_model`; it finds no head below `model.language_model`.
_LAYOUTS = (
    (re.compile(r"^(?:language_model\.|model\.)?lm_head\."), "decoder.lm_head."),
    (re.compile(r"^(?:model\.)?language_model\.(?:model\.)?(?!lm_head\.)"), "decoder."),
    (re.compile(r"^(?:model\.)?vision_tower\.(?:vision_model\.)?"), "vision."),
    (re.compile(r"^(?:model\.)?multi_modal_projector\."), "projector."),
)
# Buffers that old checkpoints carry and that the config implies.
_DERIVED = re.compile(r"(?:\.position_ids|\.rotary_emb\.inv_freq)$")


def canonical_name(stored: str) -> str | None:
    """Returns the canonical name of a tensor on disk; None for buffers that the config implies.

    A name that belongs to no part of a Llava comes back as it is.
    """
    if _DERIVED.search(stored):
        return None
    for pattern, prefix in _LAYOUTS:
        if pattern.match(stored):
            return pattern.sub(prefix, stored, count=1)
    return stored


def never_computed(name: str) -> bool:
    """Whether no Llava computes with a tensor of this canonical name, even where the tower has it."""
    return name.startswith(("vision.post_layernorm.", "vision.head."))
