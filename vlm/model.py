"""A model as the torch stages use it: spec, stock model, tokenizer, processor, chat template.

The model is the library's own class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from allrounder.errors import ModelUnreadable
from allrounder.images.plan import ImagePlan
from allrounder.manifest import ChatTemplate
from allrounder.vlm.checkpoint import Checkpoint
from allrounder.vlm.config import read_config
from allrounder.vlm.control_tokens import named_ids, sealed_tokenizer
from allrounder.vlm.families import FAMILIES
from allrounder.vlm.generation import stop_ids
from allrounder.vlm.parts.marks import check_marks, mark_ids, mark_texts
from allrounder.vlm.processor import Processor, load_processor
from allrounder.vlm.spec import ModelSpec
from allrounder.vlm.stock import load_stock
from allrounder.vlm.template import golden_prompts, read_chat
from allrounder.vlm.vocabulary import check_vocabulary

__all__ = ["LoadedModel", "ModelText", "load_model", "load_text", "model_directory"]

# What a model consists of; a hub repository often holds other formats of the same weights as well.
_HUB_FILES = ["*.json", "*.jinja", "*.safetensors", "tokenizer.model"]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A frozen vision-language model. All fields are to be read only."""

    spec: ModelSpec
    model: PreTrainedModel  # eval, no gradients, scaled-dot-product attention
    tokenizer: PreTrainedTokenizerFast
    processor: Processor
    images: ImagePlan
    chat: ChatTemplate
    tokenizer_json: str  # with every control token special (`sealed_tokenizer`), as runtimes get it
    stop_ids: tuple[int, ...]  # any of them ends an answer
    digest: str  # `Checkpoint.digest`
    source: str  # as the caller named it

    @property
    def decoder(self) -> Any:
        """The stock module that holds the decoder's embedding table, layers, last norm and rotary embedding."""
        inner: Any = self.model.model
        return getattr(inner, FAMILIES[self.spec.model_type].modules.decoder)


class ModelText(NamedTuple):
    """What turns messages and images into ids and tiles, and ends an answer; see `LoadedModel`."""

    processor: Processor
    images: ImagePlan
    chat: ChatTemplate
    tokenizer_json: str
    stop_ids: tuple[int, ...]


def load_model(
    source: Path | str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> LoadedModel:
    """Loads a model from a directory or a hub id.

    Args:
        source: A Hugging Face directory, or ``owner/name`` on the hub.
        dtype: Of the weights in memory, whatever the checkpoint holds. Parity with a reference needs float32.
        device: Where the model is put.

    Raises:
        ModelUnreadable: Files are missing, damaged or cannot be fetched.
        ModelUnsupported: The model is not one that pruning understands.
    """
    directory = model_directory(source)
    checkpoint = Checkpoint(directory)
    text = load_text(directory, checkpoint.spec)
    return LoadedModel(
        spec=checkpoint.spec,
        model=load_stock(checkpoint, dtype).to(device),  # pyright: ignore[reportArgumentType] - torch's own stub
        tokenizer=text.processor.tokenizer,
        processor=text.processor,
        images=text.images,
        chat=text.chat,
        tokenizer_json=text.tokenizer_json,
        stop_ids=text.stop_ids,
        digest=checkpoint.digest,
        source=str(source),
    )


def model_directory(source: Path | str) -> Path:
    """Returns the directory of a model, fetched from the hub where ``source`` is a hub id.

    Raises:
        ModelUnreadable: Neither a directory nor a repository that can be fetched.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    remedy = "check the name and the connection, or give a local directory of the downloaded model"
    if path.is_absolute() or str(source).count("/") != 1 or path.exists():
        raise ModelUnreadable("no such directory", where=source, wanted="a directory or owner/name", remedy=remedy)
    try:
        return Path(snapshot_download(str(source), allow_patterns=_HUB_FILES))
    except Exception as error:  # the hub client's errors have no common root: HTTP, offline, cache, validation
        raise ModelUnreadable("cannot be fetched from the hub", where=source, got=error, remedy=remedy) from error


def load_text(directory: Path, spec: ModelSpec) -> ModelText:
    """Returns the text side of a model, checked against its embedding table.

    Raises:
        ModelUnreadable, ModelUnsupported: Tokenizer, processor, template or generation config are missing or unusable,
            or speak of ids that the model does not have.
    """
    processor, stops = load_processor(directory, spec.model_type), stop_ids(directory)
    chat = read_chat(processor, spec.image_token_id)
    images = FAMILIES[spec.model_type].image_plan(processor, read_config(directory), spec)
    texts = mark_texts(images)
    tokenizer_json = sealed_tokenizer(processor, chat, named_ids(directory) | mark_ids(processor, texts))
    golden_prompts(processor, tokenizer_json, chat)
    check_marks(processor, tokenizer_json, chat, texts)
    check_vocabulary(tokenizer_json, chat, stops, spec.decoder.vocabulary)
    return ModelText(processor, images, chat, tokenizer_json, stops)
