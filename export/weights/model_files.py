"""The model's own files, for engines that write its weights again."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from allrounder import __version__
from allrounder.errors import ModelUnreadable
from allrounder.hashing import file_record
from allrounder.manifest import SCHEMA, encode
from allrounder.model_files import CONFIG, MODEL_FOLDER, MODEL_RECORD, ModelRecord, SourceFile
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.config import read_config

__all__ = ["write_model"]

# What stock loaders read beside weights and their index, in all spellings of the years; and the licence, which goes
# where the weights go. A README speaks of the unpruned model and stays behind.
_SMALL = (
    CONFIG,
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
_LICENCE = re.compile(r"(?i:licen[cs]e|notice)[A-Za-z0-9._-]*")


def write_model(checkpoint: Checkpoint, out: Path) -> ModelRecord:
    """Copies a model's small files below ``out`` and writes the record of its weights beside them.

    Raises:
        ModelUnreadable: A file cannot be read, or changed since the checkpoint was opened.
    """
    directory, folder = checkpoint.directory, out / MODEL_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    text: Any = read_config(directory).text_config
    try:
        weights = {file.name: SourceFile.of(file) for file in checkpoint.files}
        names = [name for name in _SMALL if (directory / name).is_file()]
        names += sorted(path.name for path in directory.iterdir() if path.is_file() and _LICENCE.fullmatch(path.name))
        for name in names:
            shutil.copyfile(directory / name, folder / name)  # follows links: the hub's cache is made of them
        tensors = tuple(checkpoint.stored())
    except OSError as error:
        raise ModelUnreadable("the model's files cannot be copied", where=directory, got=error) from error
    record = ModelRecord(
        schema=SCHEMA,
        producer=f"allrounder {__version__}",
        digest=checkpoint.digest,
        source=str(directory.resolve()),
        weights=weights,
        tensors=tensors,
        layers=checkpoint.spec.decoder.layers,
        text_config=json.loads(text.to_json_string(use_diff=False)),
        files={name: file_record(folder / name) for name in names},
    )
    (folder / MODEL_RECORD).write_bytes(encode(record))
    return record
