"""The engine path of TensorRT-LLM 1.0 to 1.2.1 (legacy): images and questions through a built engine.

`EngineRunner` feeds kept image tokens as a prompt table to `ModelRunner` of the Python runtime. A batch shares one
table [B x T, hidden]; row r of request b is asked for by the id ``vocabulary + b x T + r``.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from allrounder.engines.tensorrt_llm.release import PACKAGE, require_engine_path
from allrounder.errors import BackendError, EngineUnavailable, InputInvalid
from allrounder.serving.kept_rows import RowReader
from allrounder.serving.tensorrt_llm.requests import with_rows

if TYPE_CHECKING:
    from allrounder.runtime.image import ImageLike

__all__ = ["EngineRunner"]


class EngineRunner:
    """An engine and the image half of its checkpoint; made by `EngineRunner.open`."""

    def __init__(self, reader: RowReader, runner: Any, batch: int) -> None:
        self._reader, self._runner, self._batch = reader, runner, batch

    @classmethod
    def open(cls, checkpoint: Path | str, engine: Path | str) -> EngineRunner:
        """Opens an engine on the GPU of this process's rank.

        Raises:
            EngineUnavailable: No TensorRT-LLM that runs engines is here, or the engine was built by another one.
            BackendError: It cannot be loaded, for example on a GPU that it was not built for.
        """
        release = require_engine_path()
        build = _built_by(Path(engine), str(release))
        reader = RowReader(checkpoint)
        try:
            rank = importlib.import_module(PACKAGE).mpi_rank()
            runner = importlib.import_module(f"{PACKAGE}.runtime").ModelRunner.from_dir(str(engine), rank=rank)
        except Exception as error:  # TensorRT says on stderr what is wrong, and raises anything
            raise BackendError(
                "TensorRT-LLM cannot load the engine",
                where=engine,
                got=f"{type(error).__name__}: {error}",
                remedy="an engine runs on the GPU architecture that it was built on: run build.sh there",
            ) from error
        return cls(reader, runner, int(build["max_batch_size"]))

    def answer(self, pairs: Sequence[tuple[ImageLike, str]], *, max_new_tokens: int) -> list[str]:
        """Returns the greedy answers to questions about images, one batch.

        Raises:
            InputInvalid: More pairs than the engine's batch, or none.
            BackendError: TensorRT-LLM failed.
        """
        if not 1 <= len(pairs) <= self._batch:
            raise InputInvalid("the engine's batch is another", got=len(pairs), wanted=f"1 to {self._batch}")
        sidecar = self._reader.sidecar
        model = sidecar.model
        table: list[np.ndarray] = []
        prompts: list[torch.Tensor] = []
        for number, (image, question) in enumerate(pairs):
            read = self._reader.read(image, question)
            table.append(read.rows)
            first = number * len(read.rows)  # each has as many
            ids = with_rows(read, range(first, first + len(read.rows)), model.vocabulary)
            prompts.append(torch.tensor(ids, dtype=torch.int32))
        try:
            output = self._runner.generate(
                prompts,
                prompt_table=torch.from_numpy(np.concatenate(table)),
                prompt_tasks=",".join("0" for _ in pairs),  # one table for all
                max_new_tokens=max_new_tokens,
                end_id=model.stop_ids[0],
                pad_id=model.stop_ids[0],
                top_k=1,
            )
        except Exception as error:
            raise BackendError("TensorRT-LLM failed", got=f"{type(error).__name__}: {error}") from error
        return [self._text(ids[0, len(prompt) :].tolist()) for ids, prompt in zip(output, prompts, strict=True)]

    def _text(self, ids: list[int]) -> str:
        stops = set(self._reader.sidecar.model.stop_ids)
        end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
        return self._reader.text(tuple(ids[:end]))


def _built_by(engine: Path, release: str) -> dict[str, Any]:
    """Returns the build limits of an engine of this very release.

    Raises:
        EngineUnavailable: It was built by another, or is no engine.
    """
    try:
        config = json.loads((engine / "config.json").read_bytes())
        version, build = str(config["version"]), dict(config["build_config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineUnavailable(
            "there is no engine", where=engine, got=repr(error), remedy="run build.sh first, on this GPU"
        ) from error
    if version != release:
        raise EngineUnavailable(
            "the engine was built by another TensorRT-LLM",
            where=engine,
            got=f"{PACKAGE} {version}",
            wanted=f"{PACKAGE} {release}, which is installed",
            remedy="run build.sh again",
        )
    return build
