"""InternVL's tensors: its tower calls what CLIP's has otherwise, and has more.

Source: ``InternVLVisionModel`` of transformers' ``internvl``. Checkpoints on the hub
(``OpenGVLab/InternVL3-1B-hf``) have ``vision_tower.``, ``multi_modal_projector.`` and
``language_model.model.`` before its names, which vLLM maps too:
https://github.com/vllm-project/vllm/blob/01dc2879/vllm/model_executor/models/interns1.py (`hf_to_vllm_mapper`)
"""

from __future__ import annotations

import re
from typing import Final

from allrounder.vlm.parts.names import Names, canonical_name, written_name

__all__ = ["INTERNVL"]

_LAYER = re.compile(r"(vision\.encoder\.layer)s?(\.\d+\.)(.+)")  # InternVL's, and with an s the canonical one
# InternVL's, and the canonical one; the first that begins a name.
_IN_LAYERS = (
    ("layernorm_before.", "layer_norm1."),
    ("layernorm_after.", "layer_norm2."),
    ("attention.projection_layer.", "self_attn.out_proj."),
    ("attention.", "self_attn."),
)
_EMBEDDINGS = {
    "vision.embeddings.cls_token": "vision.embeddings.class_embedding",
    "vision.embeddings.position_embeddings": "vision.embeddings.position_embedding.weight",
    "vision.embeddings.patch_embeddings.projection.weight": "vision.embeddings.patch_embedding.weight",
    "vision.embeddings.patch_embeddings.projection.bias": "vision.embeddings.patch_embedding.bias",
}
_THEIRS = {ours: theirs for theirs, ours in _EMBEDDINGS.items()}


def _canonical(stored: str) -> str | None:
    name = canonical_name(stored)
    if name is None:
        return None
    layer = _LAYER.fullmatch(name)
    if layer is None:
        return _EMBEDDINGS.get(name, name)
    inner = next((ours + layer[3].removeprefix(old) for old, ours in _IN_LAYERS if layer[3].startswith(old)), layer[3])
    return f"{layer[1]}s{layer[2]}{inner}"


def _written(name: str) -> str:
    layer = _LAYER.fullmatch(name)
    if layer is not None:
        inner = next(
            (old + layer[3].removeprefix(new) for old, new in _IN_LAYERS if layer[3].startswith(new)), layer[3]
        )
        return f"vision_tower.encoder.layer{layer[2]}{inner}"
    if name.startswith("vision."):
        return f"vision_tower.{_THEIRS.get(name, name).removeprefix('vision.')}"
    return written_name(name)


INTERNVL: Final = Names(_canonical, _written)
