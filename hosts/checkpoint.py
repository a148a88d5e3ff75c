"""Weights of a host directory, one tensor at a time.

What it is: `Checkpoint`, which opens the safetensors files of a directory and reads single tensors by
canonical names, whatever the layout on disk.
What it knows: the three layouts of Llava checkpoints (see `canonical_name`), sharded or not, and the digest.
What it does not know: what the tensors mean. A tied head is simply not listed (see `DecoderSpec.tied`).

Canonical names: ``decoder.embed_tokens.weight``, ``decoder.layers.3.self_attn.q_proj.weight``, ``decoder.norm.weight``,
``decoder.lm_head.weight``; ``vision.`` and what follows the tower's own prefix, for example
``vision.encoder.layers.0.mlp.fc1.weight``; ``projector.linear_1.weight`` and so on.

Files are mapped, not read: a tensor costs page cache, which the kernel takes back at will, not anonymous memory.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from transformers import LlavaForConditionalGeneration

from allrounder.errors import HostUnreadable, HostUnsupported
from allrounder.hosts.spec import read_config, read_spec

__all__ = ["Checkpoint", "StoredTensor", "canonical_name"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_CHUNK = 1 << 22  # bytes hashed at a time

# In order, the first that matches. Older transformers wrote `language_model.model.layers...` and
# `vision_tower.vision_model...`, newer ones `model.language_model.layers...` and `model.vision_tower...`;
# 5.x reads both and writes the older names, without `vision_model`.
_LAYOUTS = (
    (re.compile(r"^(?:model\.)?language_model\.lm_head\."), "decoder.lm_head."),
    (re.compile(r"^lm_head\."), "decoder.lm_head."),
    (re.compile(r"^(?:model\.)?language_model\.(?:model\.)?"), "decoder."),
    (re.compile(r"^(?:model\.)?vision_tower\.(?:vision_model\.)?"), "vision."),
    (re.compile(r"^(?:model\.)?multi_modal_projector\."), "projector."),
)
# Buffers that old checkpoints carry and that the config implies.
_DERIVED = re.compile(r"(?:\.position_ids|\.rotary_emb\.inv_freq)$")


def canonical_name(stored: str) -> str | None:
    """Returns the canonical name of a tensor on disk; None for buffers that the config implies.

    Raises:
        HostUnsupported: A tensor that belongs to no part of a Llava.
    """
    if _DERIVED.search(stored):
        return None
    for pattern, prefix in _LAYOUTS:
        if pattern.match(stored):
            return pattern.sub(prefix, stored, count=1)
    raise HostUnsupported(
        "a weight that belongs to neither decoder, vision tower nor projector", where=SINGLE, got=stored
    )


class StoredTensor(NamedTuple):
    """Where a tensor lies on disk."""

    name: str  # canonical
    stored: str  # in the file
    file: Path
    dtype: str  # as safetensors spells it: "BF16"
    shape: tuple[int, ...]
    begin: int  # first byte in the file, and the one after the last
    end: int


class Checkpoint:
    """The weights of one host directory, opened and mapped, and the spec of its config.

    Args:
        directory: A Hugging Face directory with ``config.json`` and ``model.safetensors``, or shards and their index.

    Raises:
        HostUnreadable: A file is missing, truncated, or lacks what the index promises.
        HostUnsupported: The config or the weights are not those of a Llava that pruning understands.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self._config = read_config(self.directory)
        self.spec = read_spec(self._config)
        self.files = _weight_files(self.directory)
        self._open = {file: _opened(file) for file in self.files}
        self._found = {
            name: (file, stored)
            for file, opened in self._open.items()
            for stored in opened.keys()  # noqa: SIM118 - a safetensors handle is no mapping
            if (name := canonical_name(stored)) is not None
        }

    def names(self) -> tuple[str, ...]:
        """Returns all canonical names, sorted."""
        return tuple(sorted(self._found))

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def read(self, name: str) -> torch.Tensor:
        """Returns one tensor in the dtype on disk; its memory is the mapped file and must not be written to.

        Raises:
            HostUnreadable: The checkpoint has no such tensor.
        """
        file, stored = self._located(name)
        return self._open[file].get_tensor(stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape without touching its data."""
        file, stored = self._located(name)
        return tuple(self._open[file].get_slice(stored).get_shape())

    def stored(self) -> Iterator[StoredTensor]:
        """Gives every tensor but buffers that the config implies, file by file in the order of their bytes."""
        for file in self.files:
            header, start = _header(file)
            for stored, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                name = canonical_name(stored)
                if name is not None:
                    begin, end = entry["data_offsets"]
                    yield StoredTensor(
                        name, stored, file, entry["dtype"], tuple(entry["shape"]), start + begin, start + end
                    )

    def check(self) -> None:
        """Checks that every weight which the host computes with is there, in the shape that the config implies.

        Raises:
            HostUnreadable: The first weight that is absent or of another shape, by name.
        """
        with torch.device("meta"):  # shapes only
            empty = LlavaForConditionalGeneration(self._config)
        for stored, tensor in empty.state_dict().items():
            name = canonical_name(stored)
            if name is None or self._unused(name):
                continue
            if self.shape(name) != tuple(tensor.shape):
                raise HostUnreadable(
                    "a weight has another shape than config.json says",
                    where=f"{self.directory}: {name}",
                    got=list(self.shape(name)),
                    wanted=list(tensor.shape),
                )

    def _unused(self, name: str) -> bool:
        """Whether the stock model has a weight of this name but never computes with it, or holds it elsewhere."""
        if name == "decoder.lm_head.weight":
            return self.spec.decoder.tied
        layer = re.match(r"vision\.encoder\.layers\.(\d+)\.", name)
        if layer:
            return int(layer[1]) >= max(self.spec.vision.feature_layers)
        return name.startswith(("vision.post_layernorm.", "vision.head."))

    @cached_property
    def digest(self) -> str:
        """64 hex digits over ``config.json`` and the weight files: names, sizes and every byte.

        Reads all files in full, once per object, without holding them.
        """
        total = hashlib.sha256()
        for file in (self.directory / "config.json", *self.files):
            try:
                digest, size = _file_digest(file)
            except OSError as error:
                raise HostUnreadable("a file cannot be read", where=file, got=error) from error
            total.update(f"{file.name}\0{size}\0{digest}\n".encode())
        return total.hexdigest()

    def _located(self, name: str) -> tuple[Path, str]:
        if name not in self._found:
            raise HostUnreadable(
                "the checkpoint lacks a weight",
                where=self.directory,
                wanted=name,
                remedy="config.json and weights do not belong together, or the checkpoint is incomplete",
            )
        return self._found[name]


def _weight_files(directory: Path) -> tuple[Path, ...]:
    """Returns the safetensors files, sorted by name; every one exists."""
    if (directory / SINGLE).is_file():
        return (directory / SINGLE,)
    index = directory / INDEX
    if not index.is_file():
        raise HostUnreadable(
            "no weights in safetensors format",
            where=directory,
            wanted=f"{SINGLE} or {INDEX}",
            remedy="save the model with transformers' save_pretrained; pickled .bin weights are not read",
        )
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HostUnreadable("the index of the weights cannot be read", where=index, got=repr(error)) from error
    for shard in shards:
        # A shard is a file beside its index; anything else is not a checkpoint that transformers wrote.
        if not isinstance(shard, str) or Path(shard).name != shard or not (directory / shard).is_file():
            raise HostUnreadable(
                "a shard of the weights is missing",
                where=index,
                wanted=shard,
                remedy="download the checkpoint again, in full",
            )
    return tuple(directory / shard for shard in shards)


def _opened(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise HostUnreadable(
            "a weights file is truncated or damaged",
            where=file,
            got=error,
            remedy="download or save the checkpoint again",
        ) from error


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """Returns the entries of a safetensors header, which the library has checked, and where the data begins."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header: dict[str, Any] = json.loads(stream.read(size))
    header.pop("__metadata__", None)
    return header, 8 + size


def _file_digest(file: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size
