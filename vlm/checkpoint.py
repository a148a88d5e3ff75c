"""Weights of a model directory, one tensor at a time.

The files say whether the head is tied, as `from_pretrained` reads them; the config only that it may be. Whoever needs a
model's spec takes it from here, and what the files contradict is refused here, for all stages.

Canonical names: ``decoder.embed_tokens.weight``, ``decoder.layers.3.self_attn.q_proj.weight``, ``decoder.norm.weight``,
``decoder.lm_head.weight``; ``vision.`` and what follows the tower's own prefix, for example
``vision.encoder.layers.0.mlp.fc1.weight``; ``projector.linear_1.weight`` and so on;
``projector.image_newline``.

Files are mapped, not read: a tensor costs page cache, which the kernel takes back at will, not anonymous memory.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from allrounder.errors import ModelUnreadable, ModelUnsupported
from allrounder.hashing import file_record
from allrounder.model_files import ModelTensor
from allrounder.vlm.config import read_config, read_spec
from allrounder.vlm.families import FAMILIES
from allrounder.vlm.parts.names import never_computed, stock_shapes
from allrounder.vlm.spec import ModelSpec

__all__ = ["EMBEDDING", "HEAD", "Checkpoint"]

EMBEDDING, HEAD = "decoder.embed_tokens.weight", "decoder.lm_head.weight"

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_LAYER = re.compile(r"decoder\.layers\.(\d+)\.")
_NAMED = 4  # tensors that an error names; of the others it gives the number


class Checkpoint:
    """The weights of one model directory, opened and mapped, and the spec that config and weights agree on.

    Args:
        directory: A Hugging Face directory with ``config.json`` and ``model.safetensors``, or shards and their index.

    Raises:
        ModelUnreadable: A file is missing, truncated, or lacks what the index promises; a weight is absent, is there
            twice, or has another shape than the config implies.
        ModelUnsupported: The config is of no model that pruning understands, or there are weights that the stock model
            of this config does not have.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        _check_place(self.directory)
        self._config = read_config(self.directory)
        self.spec: ModelSpec = read_spec(self._config)
        self._family = FAMILIES[self.spec.model_type]
        self.files = _weight_files(self.directory, getattr(self._config, "transformers_weights", None))
        self._open = {file: _opened(file) for file in self.files}
        self._found = self._named()
        tied = self._tied()
        self.spec = replace(self.spec, decoder=replace(self.spec.decoder, tied=tied))
        self._check()

    def names(self) -> tuple[str, ...]:
        """Returns all canonical names, sorted."""
        return tuple(sorted(self._found))

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def read(self, name: str) -> torch.Tensor:
        """Returns one tensor in the dtype on disk; its memory is the mapped file and must not be written to.

        Raises:
            ModelUnreadable: The checkpoint has no such tensor.
        """
        file, stored = self._located(name)
        return self._open[file].get_tensor(stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape without touching its data."""
        file, stored = self._located(name)
        return tuple(self._open[file].get_slice(stored).get_shape())

    def stored(self) -> Iterator[ModelTensor]:
        """Gives every tensor but buffers that the config implies, file by file in the order of their bytes."""
        names = {place: name for name, place in self._found.items()}
        for file in self.files:
            header, start = _header(file)
            for stored, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                name = names.get((file, stored))
                if name is not None:
                    layer = _LAYER.match(name)
                    yield ModelTensor(
                        name=name,
                        stored=stored,
                        written=self._family.names.written(name),
                        layer=int(layer[1]) if layer else None,
                        file=file.name,
                        dtype=entry["dtype"],
                        shape=tuple(entry["shape"]),
                        begin=start + entry["data_offsets"][0],
                        end=start + entry["data_offsets"][1],
                    )

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype in which most elements are stored; float32 where that is none to compute in."""
        elements: Counter[torch.dtype] = Counter()
        for name in self._found:
            tensor = self.read(name)
            elements[tensor.dtype] += tensor.numel()
        ((most, _),) = elements.most_common(1)
        return most if most in (torch.float16, torch.bfloat16) else torch.float32

    def _named(self) -> dict[str, tuple[Path, str]]:
        """Returns file and stored name of every tensor, by canonical name."""
        names, found = self._family.names, dict[str, tuple[Path, str]]()
        for file, opened in self._open.items():
            for stored in opened.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                name = names.canonical(stored)
                if name in found:
                    other, flat_copy = found[name]
                    raise ModelUnreadable(
                        "a weight is there twice",
                        where=self.directory,
                        got=f"{stored} in {file.name}, and {flat_copy} in {other.name}",
                        remedy="load the model with transformers and save it anew with save_pretrained",
                    )
                if name is not None:
                    found[name] = (file, stored)
        return found

    def _tied(self) -> bool:
        """Whether the head is the embedding table, as transformers' `tie_weights` decides it when it loads the files.

        Where the config ties them and there is one alone, it serves as both, whichever it is. Where both are there,
        they are tied if they are equal; else each is what it is.
        """
        if not self._config.tie_word_embeddings or not {EMBEDDING, HEAD} & self._found.keys():
            return False
        if EMBEDDING not in self._found:
            self._found[EMBEDDING] = self._found.pop(HEAD)
        if HEAD not in self._found:
            return True
        table, head = self.read(EMBEDDING), self.read(HEAD)
        if table.dtype != head.dtype:
            table, head = table.float(), head.float()
        return torch.equal(table, head)

    def _check(self) -> None:
        """Checks that files and config speak of the same tensors, in the same shapes."""
        wanted = stock_shapes(self._family.model, self._family.names, self._config, self.directory)
        extra = sorted(self._found[name][1] for name in self._found.keys() - wanted if not never_computed(name))
        if extra:
            raise ModelUnsupported(
                f"{len(extra)} weights that the stock model of this config does not have and would not read",
                where=self.directory,
                got=", ".join(extra[:_NAMED]) + (", ..." if len(extra) > _NAMED else ""),
                remedy="mend config.json, or load the model with transformers (adapters merged by peft's "
                "merge_and_unload, quantised weights dequantised) and save it anew with save_pretrained",
            )
        for name, shape in wanted.items():
            if (name in self._found or not self._unneeded(name)) and self.shape(name) != shape:
                raise ModelUnreadable(
                    "a weight has another shape than config.json says",
                    where=f"{self.directory}: {name}",
                    got=list(self.shape(name)),
                    wanted=list(shape),
                )

    def _unneeded(self, name: str) -> bool:
        """Whether the stock model has a weight of this name but never computes with it, or holds it elsewhere."""
        layer = re.match(r"vision\.encoder\.layers\.(\d+)\.", name)
        if layer:
            return int(layer[1]) >= max(self.spec.vision.feature_layers)
        return never_computed(name) or (name == HEAD and self.spec.decoder.tied)

    @cached_property
    def digest(self) -> str:
        """64 hex digits over ``config.json`` and the weight files: names, sizes and every byte.

        Reads all files in full, once per object, without holding them.
        """
        total = hashlib.sha256()
        for file in (self.directory / "config.json", *self.files):
            try:
                record = file_record(file.resolve())  # the hub's cache is made of links
            except OSError as error:
                raise ModelUnreadable("a file cannot be read", where=file, got=error) from error
            total.update(f"{file.name}\0{record.bytes}\0{record.sha256}\n".encode())
        return total.hexdigest()

    def _located(self, name: str) -> tuple[Path, str]:
        if name not in self._found:
            raise ModelUnreadable(
                "the checkpoint lacks a weight",
                where=self.directory,
                wanted=name,
                remedy="config.json and weights do not belong together, or the checkpoint is incomplete",
            )
        return self._found[name]


def _check_place(directory: Path) -> None:
    """Refuses what transformers loads beside the weights, or in place of them."""
    adapters = [*directory.glob("adapter_config.json"), *directory.glob("adapter_model*")]
    if adapters:
        raise ModelUnsupported(
            "an adapter lies beside the weights, which transformers would load with peft and we do not",
            where=adapters[0],
            remedy="merge it (peft: merge_and_unload) and save the model with save_pretrained, or move its files away",
        )
    parts = sorted(directory.glob("shard-*-model-*-of-*.safetensors"))
    if parts:
        raise ModelUnsupported(
            "a distributed checkpoint, which transformers reads in place of other weights",
            where=parts[0],
            remedy="load the model with transformers and save it anew with save_pretrained",
        )


def _weight_files(directory: Path, named: str | None) -> tuple[Path, ...]:
    """Returns the safetensors files, sorted by name; every one exists.

    As transformers chooses them: one file before shards, shards by the index alone, before both what the config names.
    """
    if named is not None:
        raise ModelUnsupported(
            "weights under a name of their own",
            where=f"{directory / 'config.json'}: transformers_weights",
            got=named,
            wanted=f"{SINGLE} or {INDEX}",
            remedy="save the model with transformers' save_pretrained",
        )
    if (directory / SINGLE).is_file():
        return (directory / SINGLE,)
    index = directory / INDEX
    if not index.is_file():
        raise ModelUnreadable(
            "no weights in safetensors format",
            where=directory,
            wanted=f"{SINGLE} or {INDEX}",
            remedy="save the model with transformers' save_pretrained; pickled .bin weights are not read",
        )
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnreadable("the index of the weights cannot be read", where=index, got=repr(error)) from error
    for shard in shards:
        # A shard is a file beside its index; anything else is not a checkpoint that transformers wrote.
        if not isinstance(shard, str) or Path(shard).name != shard or not (directory / shard).is_file():
            raise ModelUnreadable(
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
        raise ModelUnreadable(
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
