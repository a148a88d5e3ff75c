"""Weights of a pruned checkpoint, cut and written as TensorRT-LLM's ranks, one tensor at a time.

The reader of safetensors files gives their bytes as they are, and the writer never holds more than one tensor. Elements
are moved, never computed with: bfloat16, which numpy does not have, passes as 16-bit integers.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from allrounder.engines.checkpoint.weights import safetensors_header
from allrounder.engines.tensorrt_llm.layout import Piece, Target
from allrounder.errors import BundleError, ModelUnreadable, ModelUnsupported

__all__ = ["DTYPES", "Weights", "write_rank"]

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_CARRIERS = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32}  # same size, no meaning
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}  # as TensorRT-LLM spells them
_HEADER_LIMIT = 100_000_000  # the format's own
# Canonical names of decoder tensors, in the layouts that transformers has written; the first that matches.
_LAYOUTS = (
    (re.compile(r"^(?:model\.)?language_model\.lm_head\.|^lm_head\."), "decoder.lm_head."),
    (re.compile(r"^(?:model\.)?language_model\.(?:model\.)?"), "decoder."),
)


class _Stored(NamedTuple):
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int  # of its first byte in the file


class Weights:
    """The decoder's tensors of a Hugging Face directory, mapped.

    Raises:
        ModelUnreadable: A file is missing or damaged.
        ModelUnsupported: Tensors of several dtypes, or of one that engines do not take.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stored: dict[str, _Stored] = {}
        for file in _files(directory):
            for name, stored in _header(file).items():
                canonical = _canonical(name)
                if canonical is not None:
                    self._stored[canonical] = stored
        dtypes = sorted({stored.dtype for stored in self._stored.values()})
        if len(dtypes) != 1 or dtypes[0] not in DTYPES:
            raise ModelUnsupported(
                "the decoder's weights are not of one dtype that engines take",
                where=directory,
                got=", ".join(dtypes) or "no decoder weights",
                wanted=f"one of {', '.join(DTYPES)}",
            )
        self.dtype = dtypes[0]

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def read(self, piece: Piece) -> np.ndarray:
        """Returns a piece of a tensor; its elements are carried, not understood.

        Raises:
            ModelUnreadable: There is no such tensor, or it is smaller than the piece.
        """
        stored = self._stored.get(piece.source)
        if stored is None:
            raise ModelUnreadable("the checkpoint lacks a weight", where=self.directory, wanted=piece.source)
        rows = piece.rows or (0, stored.shape[0])
        columns = piece.columns or (0, stored.shape[-1])
        if rows[1] > stored.shape[0] or columns[1] > stored.shape[-1]:
            raise ModelUnreadable(
                "a weight is smaller than config.json says",
                where=f"{stored.file}: {piece.source}",
                got=list(stored.shape),
                wanted=f"rows up to {rows[1]}, columns up to {columns[1]}",
            )
        carrier = _CARRIERS[stored.dtype]
        mapped = np.memmap(stored.file, carrier, mode="r", offset=stored.offset, shape=stored.shape)
        return mapped[slice(*rows)] if mapped.ndim == 1 else mapped[slice(*rows), slice(*columns)]


def write_rank(file: Path, weights: Weights, wanted: Sequence[Target], progress: Callable[[int, int], None]) -> None:
    """Writes one ``rankN.safetensors``; ``progress`` gets how many of how many bytes are written.

    Raises:
        ModelUnreadable: A source tensor is missing, or of another shape than the layout says.
        BundleError: The file system refuses.
    """
    size = np.dtype(_CARRIERS[weights.dtype]).itemsize
    sizes = [size * int(np.prod(target.shape)) for target in wanted]
    header = safetensors_header(
        (target.name, weights.dtype, target.shape, count) for target, count in zip(wanted, sizes, strict=True)
    )
    end = sum(sizes)
    try:
        with file.open("xb") as out:
            out.write(header)
            for target in wanted:
                progress(out.tell() - len(header), end)
                _write(out.write, weights, target, size)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise BundleError("a rank's weights cannot be written", where=file, got=error) from error
    progress(end, end)


def _write(write: Callable[[bytes], object], weights: Weights, target: Target, size: int) -> None:
    values = [weights.read(piece) for piece in target.pieces]
    rows = target.padding + sum(value.shape[0] for value in values)
    if rows != target.shape[0] or any(value.shape[1:] != target.shape[1:] for value in values):
        raise ModelUnreadable(
            "a weight has another shape than config.json says",
            where=", ".join(piece.source for piece in target.pieces),
            got=[list(value.shape) for value in values],
            wanted=f"{list(target.shape)} together",
        )
    for value in values:
        write(np.ascontiguousarray(value).tobytes())
    write(bytes(size * target.padding * int(np.prod(target.shape[1:]))))


def _files(directory: Path) -> list[Path]:
    """Returns the safetensors files of a Hugging Face directory."""
    if (directory / _SINGLE).is_file():
        return [directory / _SINGLE]
    try:
        index = json.loads((directory / _INDEX).read_bytes())
        return [directory / Path(name).name for name in sorted(set(index["weight_map"].values()))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnreadable(
            "no weights in safetensors format", where=directory, got=repr(error), wanted=f"{_SINGLE} or {_INDEX}"
        ) from error


def _header(file: Path) -> dict[str, _Stored]:
    """Returns where the tensors of a safetensors file lie."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= min(_HEADER_LIMIT, file.stat().st_size - 8):
                raise ValueError(f"a header of {length} bytes")  # noqa: TRY301 - said once, below
            header = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        data = 8 + length
        found = {
            name: _Stored(file, entry["dtype"], tuple(map(int, entry["shape"])), data + int(entry["data_offsets"][0]))
            for name, entry in header.items()
        }
        last = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        if data + last > file.stat().st_size:
            raise ValueError("the file is shorter than its header says")  # noqa: TRY301
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelUnreadable("a weights file is truncated or damaged", where=file, got=repr(error)) from error
    return found


def _canonical(name: str) -> str | None:
    """Returns the canonical name of a decoder tensor; None for all others."""
    for pattern, prefix in _LAYOUTS:
        if pattern.match(name):
            return pattern.sub(prefix, name, count=1)
    return None
