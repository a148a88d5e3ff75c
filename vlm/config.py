"""The config of a model directory: read, checked, and turned into a `ModelSpec` by its family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from allrounder.errors import ModelUnreadable, ModelUnsupported
from allrounder.vlm.families import FAMILIES
from allrounder.vlm.parts.decoder import DECODER_FAMILIES
from allrounder.vlm.spec import ModelSpec

__all__ = ["read_config", "read_spec"]


def read_config(directory: Path | str) -> PreTrainedConfig:
    """Returns the stock config of a model directory.

    Raises:
        ModelUnreadable: There is no readable ``config.json``.
        ModelUnsupported: It is of no known family, or has a part that is not known; names the key.
    """
    path = Path(directory) / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnreadable(
            "no readable config.json", where=path, got=error, remedy="give a Hugging Face model directory"
        ) from error
    if not isinstance(raw, dict):
        raise ModelUnreadable("config.json is not an object", where=path, got=type(raw).__name__)
    # Before transformers sees it: its own errors for unknown types name no key, and a quantised one needs packages.
    _check_model_types(raw)
    try:
        return FAMILIES[raw["model_type"]].config.from_pretrained(str(directory), local_files_only=True)
    except (StrictDataclassError, OSError, ValueError, TypeError, KeyError) as error:
        raise ModelUnsupported("transformers does not accept this config", where=path, got=error) from error


def read_spec(config: PreTrainedConfig) -> ModelSpec:
    """Returns the spec of a Hugging Face config.

    Raises:
        ModelUnsupported: Something that pruning does not understand, or that would make a removed token differ
            from a masked one. ``where`` is the config key.
    """
    raw = config.to_dict()
    _check_model_types(raw)
    return FAMILIES[raw["model_type"]].spec(config)


def _check_model_types(raw: dict[str, Any]) -> None:
    remedy = f"prune a checkpoint of one of {', '.join(FAMILIES)}; text-only models have no image"
    _one_of(raw.get("model_type"), "model_type", tuple(FAMILIES), remedy)
    towers = FAMILIES[raw["model_type"]].towers
    for part, known in (("text_config", DECODER_FAMILIES), ("vision_config", towers)):
        inner = raw.get(part) or {}
        _one_of(inner.get("model_type", known[0]), f"{part}.model_type", known, None)
    for where, holder in (("", raw), ("text_config.", raw.get("text_config") or {})):
        if holder.get("quantization_config") is not None:
            raise ModelUnsupported(
                "quantised weights cannot be pruned into graphs",
                where=f"{where}quantization_config",
                remedy="use the checkpoint in float32, bfloat16 or float16",
            )


def _one_of(got: object, where: str, wanted: tuple[str, ...], remedy: str | None) -> None:
    if got not in wanted:
        raise ModelUnsupported(
            "this kind of model is not supported", where=where, got=got, wanted=" or ".join(wanted), remedy=remedy
        )
