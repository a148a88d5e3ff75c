"""The image half of a frozen directory, alone: from an image and a question to the kept image tokens.

The vision and router graphs are copied with one weights file that holds what they point at and nothing
else, and the tokenizer with its golden prompts. A frozen directory has one weights file for everything, most of it the
decoder's layers: those leave in a format of their own, and need not be carried twice.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import BinaryIO

import onnx

from allrounder.engines.bundle.references import external_tensors
from allrounder.engines.checkpoint.weights import chunks
from allrounder.golden import GOLDEN, TOKENIZER
from allrounder.hashing import file_record
from allrounder.manifest import FileRecord, Frozen, SharedGraphs

__all__ = ["write_image"]

_WEIGHTS = "weights.bin"
_PAGE = 4096
_Span = tuple[str, int, int]  # file, first byte, bytes


def write_image(
    frozen_dir: Path, frozen: Frozen, out: Path, *, router: bool
) -> tuple[SharedGraphs, dict[str, FileRecord]]:
    """Writes graphs, weights and tokenizer of a verified frozen directory below ``out``.

    Returns:
        The graphs' and all files' paths relative to ``out``; the router's where the version asks the router.

    Raises:
        OSError: The file system refuses.
    """
    graphs = {"vision": frozen.graphs.vision}
    if router and frozen.graphs.router is not None:
        graphs["router"] = frozen.graphs.router
    (out / TOKENIZER).parent.mkdir(parents=True, exist_ok=True)
    for name in (TOKENIZER, GOLDEN):
        shutil.copyfile(frozen_dir / name, out / name)
    names = {kind: f"{kind}.onnx" for kind in graphs}
    with (out / _WEIGHTS).open("xb") as weights:
        placed: dict[_Span, int] = {}
        for kind, path in graphs.items():
            model = onnx.load(frozen_dir / path, load_external_data=False)
            for tensor in external_tensors(model):
                _move(tensor, (frozen_dir / path).parent, weights, placed)
            (out / names[kind]).write_bytes(model.SerializeToString(deterministic=True))
        weights.flush()
        os.fsync(weights.fileno())
    files = {name: file_record(out / name) for name in (*names.values(), _WEIGHTS, TOKENIZER, GOLDEN)}
    return SharedGraphs(vision=names["vision"], router=names.get("router")), files


def _move(tensor: onnx.TensorProto, folder: Path, weights: BinaryIO, placed: dict[_Span, int]) -> None:
    """Copies what a tensor points at, unless another one points there as well, and points it at the copy."""
    where = {entry.key: entry.value for entry in tensor.external_data}
    file, offset, length = where["location"], int(where.get("offset", 0)), where.get("length")
    size = int(length) if length is not None else (folder / file).stat().st_size - offset
    span = (file, offset, size)
    if span not in placed:
        weights.seek(-(-weights.tell() // _PAGE) * _PAGE)  # a mapped tensor starts on a page
        placed[span] = weights.tell()
        weights.writelines(chunks(folder / file, offset, size))
    del tensor.external_data[:]
    for key, value in (("location", _WEIGHTS), ("offset", placed[span]), ("length", size)):
        tensor.external_data.add(key=key, value=str(value))
