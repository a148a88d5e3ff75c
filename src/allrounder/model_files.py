"""Model files: what the exporter hands to engines that write a model's own weights again.

The record `model/model.json` in a frozen directory: where the weights lie, every tensor's name, layer, dtype, shape and
bytes, the decoder's config with all defaults filled in, and the small files that lie beside it.

The weights themselves are not copied: at 7B they are tens of gigabytes. ``source`` says where they lie, and size and
time of each file show whether it is still the one that was read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import msgspec

from allrounder.errors import BundleCorrupt
from allrounder.manifest import Count, FileRecord, Positive, Record, Sha256, check_schema

__all__ = ["CONFIG", "MODEL_FOLDER", "MODEL_RECORD", "ModelRecord", "ModelTensor", "SourceFile", "read_model"]

MODEL_FOLDER = "model"  # below a frozen directory
MODEL_RECORD = "model.json"  # below that folder; the small files lie beside it, under their own names
CONFIG = "config.json"  # the one of them that every model has


class SourceFile(Record, frozen=True, kw_only=True):
    """State of a weights file when it was read."""

    bytes: Count
    mtime_ns: Count

    @classmethod
    def of(cls, file: Path) -> SourceFile:
        """Returns the state of a file as it is now.

        Raises:
            OSError: There is none.
        """
        status = file.stat()
        return cls(bytes=status.st_size, mtime_ns=status.st_mtime_ns)


class ModelTensor(Record, frozen=True, kw_only=True):
    """One tensor, as it lies in its file."""

    name: str  # canonical, see `allrounder.vlm.checkpoint`: "decoder.layers.3.mlp.up_proj.weight"
    stored: str  # in the file: "model.language_model.layers.3.mlp.up_proj.weight"
    written: str  # in a checkpoint for others that has every layer: "language_model.model.layers.3.mlp.up_proj.weight"
    layer: Count | None  # of the decoder; None outside its layers
    file: str
    dtype: str  # as safetensors spells it: "BF16"
    shape: tuple[Count, ...]
    begin: Count  # first byte in the file, and the one after the last
    end: Count


class ModelRecord(Record, frozen=True, kw_only=True):
    """`model/model.json`."""

    schema: Literal[3]
    producer: str
    digest: Sha256  # of the model, as in `Model.digest`
    source: str  # the directory of the weights files, absolute
    weights: dict[str, SourceFile]
    tensors: tuple[
        ModelTensor, ...
    ]  # by file, in the order of their bytes; buffers that the config implies are left out
    layers: Positive  # M
    text_config: dict[str, Any]  # of the decoder, as transformers completes it
    files: dict[str, FileRecord]  # beside this record

    def weights_file(self, name: str) -> Path:
        """Returns the path of a weights file, which is still the one that was read.

        Raises:
            BundleCorrupt: It is not, or it is gone.
        """
        file = Path(self.source, name)
        try:
            found = SourceFile.of(file)
        except OSError as error:
            raise BundleCorrupt("the model's weights cannot be read", where=file, got=error) from error
        if found != self.weights[name]:
            raise BundleCorrupt(
                "the model's weights changed while they were read",
                where=file,
                got=f"{found.bytes} bytes, mtime {found.mtime_ns}",
                wanted=f"{self.weights[name].bytes} bytes, mtime {self.weights[name].mtime_ns}",
                remedy="leave them alone during a build, and start it again",
            )
        return file


def read_model(frozen_dir: Path | str) -> ModelRecord:
    """Returns the model's record of a frozen directory; weights are not read yet.

    Raises:
        BundleCorrupt: There is none, or it cannot be read.
        BundleFromFuture: It was written by a newer exporter.
    """
    path = Path(frozen_dir, MODEL_FOLDER, MODEL_RECORD)
    try:
        data = path.read_bytes()
        check_schema(data, where=path)
        record = msgspec.json.decode(data, type=ModelRecord)
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise BundleCorrupt("the model's files are not recorded here", where=path, got=error) from error
    strays = [name for name in (*record.weights, *record.files) if os.path.basename(name) != name]  # noqa: PTH119
    if strays or any(tensor.file not in record.weights for tensor in record.tensors):
        raise BundleCorrupt("the record of the model's files contradicts itself", where=path, got=strays or None)
    return record
