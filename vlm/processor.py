"""The text and image sides of a model directory: tokenizer, image processor and chat template.

A whole stock processor is never built: some want torchvision for videos, which nothing here needs. Its parts are the
library's own, the image processor the one that works on Pillow images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedTokenizerFast, ProcessorMixin

from allrounder.errors import ModelUnsupported
from allrounder.vlm.families import FAMILIES

__all__ = ["Processor", "load_processor"]

_IMAGE_TOKEN = "<image>"  # the stock processors' default


@dataclass(frozen=True, slots=True, eq=False)
class Processor:
    """The parts of a stock processor, by its names."""

    tokenizer: PreTrainedTokenizerFast
    image_processor: Any
    image_token: str
    chat_template: str | dict[str, str] | None

    def apply_chat_template(self, messages: Sequence[Any], *, add_generation_prompt: bool = True) -> str:
        """Returns the text of a conversation, as the library renders it."""
        rendered: Any = self.tokenizer.apply_chat_template(
            list(messages),
            chat_template=self.chat_template,  # pyright: ignore[reportArgumentType] - a name picks one of several
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
        )
        return rendered


def load_processor(directory: Path, model_type: str) -> Processor:
    """Returns the parts of the stock processor of a directory, its image side on Pillow.

    Args:
        directory: A model directory.
        model_type: The model's family, one of `FAMILIES`.

    Raises:
        ModelUnsupported: There is no usable tokenizer or image processor.
    """
    place, kind = str(directory), cast("Any", FAMILIES[model_type].image_processor)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(place, local_files_only=True)
        images: Any = (
            AutoImageProcessor.from_pretrained(place, backend="pil", local_files_only=True)
            if kind is None
            else kind.from_pretrained(place, local_files_only=True)
        )
        settings, _ = ProcessorMixin.get_processor_dict(place, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise ModelUnsupported(
            "no usable processor",
            where=directory,
            got=error,
            wanted="tokenizer.json, tokenizer_config.json and processor_config.json or preprocessor_config.json",
            remedy="save the model's processor into the directory",
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelUnsupported(
            "the tokenizer has no tokenizer.json form",
            where=directory,
            got=type(tokenizer).__name__,
            remedy="convert it to a fast tokenizer and save it",
        )
    return Processor(
        tokenizer=tokenizer,
        image_processor=images,
        image_token=getattr(tokenizer, "image_token", None) or settings.get("image_token", _IMAGE_TOKEN),
        chat_template=settings.get("chat_template"),  # a tokenizer's own is not what stock processors use
    )
