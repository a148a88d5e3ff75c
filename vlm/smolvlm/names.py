"""SmolVLM's and Idefics3's tensors, and what their stock classes call the parts.

Names on the hub are those of transformers' modules, and those of vLLM's:
https://github.com/vllm-project/vllm/blob/main/vllm/model_executor/models/idefics3.py
The tower's last norm is `vision.last_norm` here: `vision.post_layernorm` is one that no model computes with.
"""

from __future__ import annotations

import re
from typing import Final

from allrounder.errors import ModelUnsupported
from allrounder.vlm.parts.modules import Modules
from allrounder.vlm.parts.names import Names

__all__ = ["SMOLVLM", "SMOLVLM_MODULES"]

SMOLVLM_MODULES: Final = Modules("text_model", "vision_model", "connector")

# Theirs and the canonical one; the first that begins a name.
_PARTS = (
    ("model.text_model.", "decoder."),
    ("model.vision_model.post_layernorm.", "vision.last_norm."),
    ("model.vision_model.", "vision."),
    ("model.connector.modality_projection.proj.", "projector.linear_1."),
    ("lm_head.", "decoder.lm_head."),
)
_DERIVED = re.compile(r"\.(?:position_ids|rotary_emb\.inv_freq)$")  # buffers that the config implies


def _canonical(stored: str) -> str | None:
    if _DERIVED.search(stored):
        return None
    for theirs, ours in _PARTS:
        if stored.startswith(theirs):
            return ours + stored.removeprefix(theirs)
    return stored


def _written(name: str) -> str:
    parts = [(theirs, ours) for theirs, ours in _PARTS if name.startswith(ours)]
    if not parts:
        raise ModelUnsupported("a weight belongs to no part of the model", where=name)
    theirs, ours = max(parts, key=lambda part: len(part[1]))  # "decoder.lm_head." before "decoder."
    return theirs + name.removeprefix(ours)


SMOLVLM: Final = Names(_canonical, _written)
