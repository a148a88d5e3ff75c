"""Weights files: every tensor of a checkpoint once, page-aligned, streamed into place.

One tensor at a time is in memory. Embedding and head stay [V, H]: `Gather` reads rows of the one, `Gemm(transB=1)`
multiplies by the other, and so a tied head is the same mapped tensor.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from onnx import TensorProto

from allrounder.errors import BundleCorrupt, GraphInvalid
from allrounder.export.graph.writer import Placed
from allrounder.progress import Progress
from allrounder.vlm.spec import DecoderSpec, ModelSpec, ProjectorSpec, VisionSpec

__all__ = [
    "ALIGNMENT",
    "ELEMENT_TYPES",
    "FOLDER",
    "Needed",
    "Read",
    "WeightsFile",
    "decoder_layer",
    "lay_out",
    "link",
    "model_tensors",
    "write",
]

ALIGNMENT = 4096  # bytes; a mapped tensor starts on a page
FOLDER = "weights"  # below the graphs' folder: ONNX Runtime refuses external data outside it
LAYOUT = 1  # changes with the order, alignment or orientation of tensors
ELEMENT_TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_TORCH: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
}
Read = Callable[[str], torch.Tensor]  # from a name to the tensor as its checkpoint holds it


class Needed(NamedTuple):
    """A tensor that graphs need: its name, whether it is transposed, and whether it stays float32."""

    name: str
    linear: bool = False
    float32: bool = False


class WeightsFile(NamedTuple):
    """A weights file as laid out, written or not."""

    name: str  # file name, from the digest of sources, precision and layout
    size: int
    tensors: dict[str, Placed]
    needed: tuple[Needed, ...]


def model_tensors(spec: ModelSpec) -> tuple[Needed, ...]:
    """Returns what the graphs of a model may need: all decoder layers, and the tower as far as it is computed."""
    decoder = spec.decoder
    tensors = [Needed("decoder.embed_tokens.weight"), Needed("decoder.norm.weight")]
    if not decoder.tied:
        tensors.append(Needed("decoder.lm_head.weight"))
    for layer in range(decoder.layers):
        tensors += decoder_layer(decoder, f"decoder.layers.{layer}")
    tensors += _vision(spec.vision)
    tensors += _projector(spec.projector)
    if spec.newline:
        tensors.append(Needed("projector.image_newline"))
    return tuple(tensors)


def decoder_layer(spec: DecoderSpec, prefix: str) -> list[Needed]:
    """Returns the tensors of one decoder layer, of the model or of the router."""
    tensors = [Needed(f"{prefix}.input_layernorm.weight"), Needed(f"{prefix}.post_attention_layernorm.weight")]
    if spec.qk_norm:
        tensors += [Needed(f"{prefix}.self_attn.{part}_norm.weight") for part in "qk"]
    for part in "qkv":
        tensors += _linear(f"{prefix}.self_attn.{part}_proj", bias=spec.qkv_bias)
    tensors += _linear(f"{prefix}.self_attn.o_proj", bias=spec.o_bias)
    for part in ("gate", "up", "down"):
        tensors += _linear(f"{prefix}.mlp.{part}_proj", bias=spec.mlp_bias)
    return tensors


def lay_out(
    kind: str, precision: str, source: str, needed: Sequence[Needed], shape: Callable[[str], tuple[int, ...]]
) -> WeightsFile:
    """Lays a file out without reading any tensor.

    ``kind`` begins the file's name, ``source`` is the digest of the checkpoint, ``shape`` gives shapes on disk.
    """
    element = ELEMENT_TYPES[precision]
    tensors: dict[str, Placed] = {}
    digest = hashlib.sha256(f"{source} {precision} {LAYOUT}".encode()).hexdigest()[:12]
    file, offset = f"{kind}-{precision}-{digest}.bin", 0
    for tensor in needed:
        stored = shape(tensor.name)
        dims = stored[::-1] if tensor.linear else stored
        dtype = TensorProto.FLOAT if tensor.float32 else element
        size = torch.Size(dims).numel() * _TORCH[dtype].itemsize
        tensors[tensor.name] = Placed(f"{FOLDER}/{file}", offset, size, dtype, dims)
        offset += -(-size // ALIGNMENT) * ALIGNMENT
    return WeightsFile(file, offset, tensors, tuple(needed))


def write(layout: WeightsFile, read: Read, path: Path, progress: Progress) -> None:
    """Streams all tensors into ``path``, which does not exist before and is whole afterwards.

    The file is mapped, and each tensor is converted and transposed from one mapping into the other: no tensor is
    ever in anonymous memory.

    Raises:
        GraphInvalid: A weight is too large for the precision, or not finite.
        OSError: The file does not fit on the disk.
    """
    partial = path.with_suffix(".partial")
    with partial.open("w+b") as file:
        os.posix_fallocate(file.fileno(), 0, layout.size)  # a full disk is an error here, not a signal below
        mapped = mmap.mmap(file.fileno(), layout.size)
        whole = torch.frombuffer(mapped, dtype=torch.uint8)
        for done, tensor in enumerate(layout.needed):
            place, stored = layout.tensors[tensor.name], read(tensor.name)
            target = whole[place.offset : place.offset + place.size].view(_TORCH[place.dtype]).reshape(place.shape)
            target.copy_(stored.t() if tensor.linear else stored)
            _check_finite(target, tensor.name)
            progress("writing weights", done + 1, len(layout.needed))
        mapped.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def link(layout: WeightsFile, existing: Path, path: Path) -> bool:
    """Hard-links ``existing`` to ``path`` where it is there and on the same file system; says whether it did.

    Raises:
        BundleCorrupt: The existing file has another size.
    """
    try:
        size = existing.stat().st_size
        if size != layout.size:
            raise BundleCorrupt("a weights file has a wrong size", where=existing, got=size, wanted=layout.size)
        path.hardlink_to(existing)
    except OSError:
        return False  # absent, or another file system: it is written anew, which gives the same bytes
    return True


def _check_finite(tensor: torch.Tensor, name: str) -> None:
    if not all(math.isfinite(value.item()) for value in torch.aminmax(tensor)):
        raise GraphInvalid(
            "a weight does not fit the precision, or is no number",
            where=name,
            wanted=f"finite values up to {torch.finfo(tensor.dtype).max:g}",
            remedy="build with --precision bf16 or fp32, or mend the checkpoint",
        )


def _linear(name: str, *, bias: bool) -> list[Needed]:
    return [Needed(f"{name}.weight", linear=True)] + ([Needed(f"{name}.bias")] if bias else [])


def _norm(name: str) -> list[Needed]:
    return [Needed(f"{name}.weight"), Needed(f"{name}.bias")]


def _projector(spec: ProjectorSpec) -> list[Needed]:
    tensors = [] if spec.norm_eps is None else _norm("projector.layer_norm")
    tensors += _linear("projector.linear_1", bias=spec.bias)
    return tensors if spec.activation is None else tensors + _linear("projector.linear_2", bias=spec.bias)


def _vision(spec: VisionSpec) -> list[Needed]:
    tensors = [
        Needed("vision.embeddings.patch_embedding.weight"),
        Needed("vision.embeddings.position_embedding.weight"),
    ]
    if spec.class_token:
        tensors.append(Needed("vision.embeddings.class_embedding"))
    if spec.pre_norm:  # `pre_layrnorm` is how CLIP's checkpoints spell it
        tensors += _norm("vision.pre_layrnorm")
    if spec.patch_bias:
        tensors.append(Needed("vision.embeddings.patch_embedding.bias"))
    for layer in range(max(spec.feature_layers)):
        tensors += _vision_layer(spec, f"vision.encoder.layers.{layer}")
    if spec.last_norm:
        tensors += _norm("vision.last_norm")
    return tensors


def _vision_layer(spec: VisionSpec, prefix: str) -> list[Needed]:
    tensors: list[Needed] = []
    for norm in ("layer_norm1", "layer_norm2"):
        tensors += [Needed(f"{prefix}.{norm}.weight")] if spec.rms_norm else _norm(f"{prefix}.{norm}")
    for part in "qkv":
        tensors += _linear(f"{prefix}.self_attn.{part}_proj", bias=spec.qkv_bias)
    if spec.qk_norm:
        tensors += [Needed(f"{prefix}.self_attn.{part}_norm.weight") for part in "qk"]
    for part in ("self_attn.out_proj", "mlp.fc1", "mlp.fc2"):
        tensors += _linear(f"{prefix}.{part}", bias=True)
    if spec.layer_scale:
        tensors += [Needed(f"{prefix}.lambda_1"), Needed(f"{prefix}.lambda_2")]
    return tensors
