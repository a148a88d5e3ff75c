"""The weights and the config of a model with some of its layers.

The safetensors files hold the kept tensors under the names that stock readers map, file for file as the model has them.
Bytes are copied as they are, a chunk at a time, so that no model is ever in memory as a whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from allrounder.errors import BundleCorrupt, ModelUnsupported
from allrounder.manifest import FileRecord
from allrounder.model_files import ModelRecord, ModelTensor
from allrounder.progress import Progress

__all__ = ["chunks", "pruned_config", "safetensors_header", "write_weights", "written_name"]

INDEX = "model.safetensors.index.json"
_CHUNK = 4 << 20
_PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")  # lists with one element per decoder layer
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}


class _Kept(NamedTuple):
    """A tensor on its way: where it lies, and its new name."""

    source: ModelTensor
    name: str


def written_name(tensor: ModelTensor, kept: Sequence[int]) -> str | None:
    """Returns the name that a tensor is written under where only the layers ``kept`` are there.

    Returns:
        The name that stock readers map, whatever the model calls it; None if it is of another layer.

    Raises:
        BundleCorrupt: The record's name of a layer's tensor is not of that layer.
    """
    if tensor.layer is None:
        return tensor.written
    if tensor.layer not in kept:
        return None
    number = f".layers.{tensor.layer}."
    if tensor.written.count(number) != 1:
        raise BundleCorrupt("a recorded weight is not of its layer", where=tensor.stored, got=tensor.written)
    return tensor.written.replace(number, f".layers.{kept.index(tensor.layer)}.")


def pruned_config(config: Mapping[str, Any], vlm: ModelRecord, kept: Sequence[int]) -> dict[str, Any]:
    """Returns ``config.json`` of the model with the layers ``kept`` alone; everything else stays as it is written.

    Rotary parameters that are written in the newer way alone are written in the older one too: transformers 4, which
    some serving stacks pin, reads no `rope_parameters` and would silently take a base of 10000.

    Raises:
        ModelUnsupported: A list with one element per layer has another length.
    """
    text = dict(config.get("text_config") or {})
    for key in _PER_LAYER:
        listed = text.get(key)
        if isinstance(listed, list):
            if len(listed) != vlm.layers:
                raise ModelUnsupported(
                    "a list in the config has not one element per layer",
                    where=f"text_config.{key}",
                    got=len(listed),
                    wanted=vlm.layers,
                )
            text[key] = [listed[layer] for layer in kept]
    windowless = vlm.text_config.get("max_window_layers")
    if isinstance(windowless, int):  # the layers below it attend to everything: as many as are kept of them still do
        text["max_window_layers"] = sum(layer < windowless for layer in kept)
    text["num_hidden_layers"] = len(kept)
    rope = dict(text.get("rope_parameters") or {})
    if "rope_theta" in rope:
        text.setdefault("rope_theta", rope.pop("rope_theta"))
        if rope.get("rope_type", "default") != "default":
            text.setdefault("rope_scaling", rope)
    if {"decoder.embed_tokens.weight", "decoder.lm_head.weight"} <= {tensor.name for tensor in vlm.tensors}:
        # transformers ties two only where they are equal; stacks that believe the flag alone need it to say so.
        config, text["tie_word_embeddings"] = {**config, "tie_word_embeddings": False}, False
    return {**config, "text_config": text}


def write_weights(vlm: ModelRecord, kept: Sequence[int], out: Path, progress: Progress) -> dict[str, FileRecord]:
    """Writes the weights of the layers ``kept``, renumbered, and of everything outside the decoder's layers.

    Returns:
        What was written below ``out``, the index of several files included.

    Raises:
        BundleCorrupt: The model's weights are not those that were recorded.
        OSError: The file system refuses.
    """
    groups: dict[str, list[_Kept]] = {}
    for tensor in vlm.tensors:
        name = written_name(tensor, kept)
        if name is not None:
            groups.setdefault(tensor.file, []).append(_Kept(tensor, name))
    single = len(vlm.weights) == 1
    records: dict[str, FileRecord] = {}
    placed: dict[str, str] = {}
    for done, (source, moved) in enumerate(groups.items(), start=1):
        name = "model.safetensors" if single else f"model-{done:05}-of-{len(groups):05}.safetensors"
        records[name] = _write_file(vlm.weights_file(source), moved, out / name)
        vlm.weights_file(source)  # the same file after it was read
        placed |= {each.name: name for each in moved}
        progress("writing weights", done, len(groups))
    if not single:
        total = sum(each.source.end - each.source.begin for moved in groups.values() for each in moved)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
        data = json.dumps(index, indent=2).encode() + b"\n"
        (out / INDEX).write_bytes(data)
        records[INDEX] = FileRecord(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    return records


def _write_file(source: Path, kept: list[_Kept], path: Path) -> FileRecord:
    # Wide elements first: then every tensor begins at a multiple of its element's size, as who maps the file wants it.
    ordered = sorted(kept, key=lambda each: (-_BITS.get(each.source.dtype, 8), each.source.begin))
    header = safetensors_header((name, each.dtype, each.shape, each.end - each.begin) for each, name in ordered)
    digest = hashlib.sha256(header)
    with path.open("xb") as writing:
        writing.write(header)
        for tensor, _ in ordered:
            for chunk in chunks(source, tensor.begin, tensor.end - tensor.begin):
                writing.write(chunk)
                digest.update(chunk)
        writing.flush()
        os.fsync(writing.fileno())
    return FileRecord(sha256=digest.hexdigest(), bytes=path.stat().st_size)


def safetensors_header(tensors: Iterable[tuple[str, str, Sequence[int], int]]) -> bytes:
    """Returns the beginning of a safetensors file of tensors (name, dtype, shape, bytes) in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape, size in tensors:
        begin, end = end, end + size
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned
    return len(text).to_bytes(8, "little") + text


def chunks(file: Path, offset: int, size: int) -> Iterator[bytes]:
    """Yields bytes of a weights file in pieces that fit into memory.

    Raises:
        BundleCorrupt: The file ends before them.
    """
    with file.open("rb") as reading:
        reading.seek(offset)
        while size:
            chunk = reading.read(min(size, _CHUNK))
            if not chunk:
                raise BundleCorrupt("a weights file is truncated", where=file, wanted=f"{size} bytes more")
            yield chunk
            size -= len(chunk)
