"""A model's files as the exporter hands them over, made by hand: tensors of a few bytes in two dtypes, eight layers."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from allrounder.hashing import file_record
from allrounder.manifest import SCHEMA, encode
from allrounder.model_files import CONFIG, MODEL_FOLDER, MODEL_RECORD, ModelRecord, ModelTensor, SourceFile

LAYERS = 8
TEXT: dict[str, Any] = {"model_type": "llama", "num_hidden_layers": LAYERS, "hidden_size": 4}
_ITEM = {"BF16": 2, "F32": 4}


def tensors() -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Dtype, shape and bytes by stored name; bf16 tensors of odd length stand before wider ones."""
    names = ["vision_tower.vision_model.encoder.layers.1.w", "multi_modal_projector.linear_1.weight"]
    names += [f"language_model.model.layers.{layer}.mlp.w" for layer in range(LAYERS)]
    names += [f"language_model.model.layers.{layer}.self_attn.b" for layer in range(LAYERS)]
    names += ["language_model.model.embed_tokens.weight", "language_model.lm_head.weight"]
    made = {}
    for number, name in enumerate(names):
        dtype, shape = ("F32", (2, 2)) if name.endswith(".b") else ("BF16", (3, number % 3 + 1))
        size = int(np.prod(shape)) * _ITEM[dtype]
        made[name] = (dtype, shape, hashlib.sha256(name.encode()).digest()[:size].ljust(size, b"\x01"))
    return made


def read_safetensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Reads a file back, byte by byte: nothing between tensors, nothing after the last."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0
    header = json.loads(data[8 : 8 + size])
    assert header.pop("__metadata__") == {"format": "pt"}
    body, found, place = data[8 + size :], {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        assert begin == place, "a hole"
        assert begin % _ITEM[entry["dtype"]] == 0, "a tensor that is not aligned"
        found[name], place = (entry["dtype"], tuple(entry["shape"]), body[begin:end]), end
    assert place == len(body)
    return found


def write_fake_model(
    frozen: Path,
    digest: str,
    *,
    shards: int = 1,
    text: dict[str, Any] | None = None,
    resolved: dict[str, Any] | None = None,
) -> Path:
    """Writes source files beside ``frozen`` and their record below it; returns the folder of the sources."""
    source = frozen.parent / f"{frozen.name}-source"
    source.mkdir()
    names = list(tensors())
    record: list[ModelTensor] = []
    for number in range(shards):
        file = "model.safetensors" if shards == 1 else f"model-{number + 1:05}-of-{shards:05}.safetensors"
        record += _write_source(source / file, names[number::shards])
    folder = frozen / MODEL_FOLDER
    folder.mkdir()
    config = {"model_type": "llava", "image_token_index": 2, "text_config": text or TEXT}
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "LICENSE").write_text("free")
    vlm = ModelRecord(
        schema=SCHEMA,
        producer="test",
        digest=digest,
        source=str(source),
        weights={path.name: SourceFile.of(path) for path in sorted(source.iterdir())},
        tensors=tuple(record),
        layers=LAYERS,
        text_config=resolved or text or TEXT,
        files={path.name: file_record(path) for path in sorted(folder.iterdir())},
    )
    (folder / MODEL_RECORD).write_bytes(encode(vlm))
    return source


def _write_source(path: Path, names: list[str]) -> list[ModelTensor]:
    header, place, known, found = {}, 0, tensors(), []
    for name in names:
        dtype, shape, data = known[name]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + len(data)]}
        place += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(known[name][2] for name in names))
    for name in names:
        begin, end = (8 + len(text) + offset for offset in header[name]["data_offsets"])
        decoder = name.startswith("language_model.model.layers.")
        found.append(
            ModelTensor(
                name=_canonical(name),
                stored=name,
                written=name,
                layer=int(name.split(".")[3]) if decoder else None,
                file=path.name,
                dtype=known[name][0],
                shape=known[name][1],
                begin=begin,
                end=end,
            )
        )
    return found


def _canonical(stored: str) -> str:
    parts = {
        "language_model.model.": "decoder.",
        "language_model.": "decoder.",
        "vision_tower.vision_model.": "vision.",
        "multi_modal_projector.": "projector.",
    }
    return next(ours + stored.removeprefix(theirs) for theirs, ours in parts.items() if stored.startswith(theirs))
