"""The text and image sides of a model directory: tokenizer, image processor and chat template.

A whole stock processor is never built: some want torchvision for videos, which nothing here needs. Its parts are the
library's own, the image processor the one that works on Pillow images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedTokenizerFast, ProcessorMixin

from allrounder.errors import ModelUnsupported
from allrounder.vlm.families import FAMILIES

__all__ = ["Processor", "load_processor"]

_IMAGE_ROLE, _IMAGE_TOKEN = "image_token", "<image>"  # the default of stock processors that have one


@dataclass(frozen=True, slots=True, eq=False)
class Processor:
    """The parts of a stock processor, by its names."""

    tokenizer: PreTrainedTokenizerFast
    image_processor: Any
    image_token: str
    chat_template: str | dict[str, str] | None
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the processor itself, as its file has them

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
    place, family = str(directory), FAMILIES[model_type]
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(place, local_files_only=True)
        images = _image_processor(place, model_type)
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
        image_token=_image_token(tokenizer, family.image_role, settings, directory),
        chat_template=settings.get("chat_template"),  # a tokenizer's own is not what stock processors use
        settings=settings,
    )


def _image_token(tokenizer: Any, role: str, settings: dict[str, Any], directory: Path) -> str:
    named = getattr(tokenizer, role, None)
    if named is not None or role == _IMAGE_ROLE:
        return named or settings.get("image_token", _IMAGE_TOKEN)
    raise ModelUnsupported(
        "the tokenizer names no token that stands for an image",
        where=directory / f"tokenizer_config.json: {role}",
        remedy="use the tokenizer that belongs to this checkpoint",
    )


def _image_processor(place: str, model_type: str) -> Any:
    family = FAMILIES[model_type]
    kind = cast("Any", family.image_processor)
    if kind is None:
        return AutoImageProcessor.from_pretrained(place, backend="pil", local_files_only=True)
    return kind.from_pretrained(place, local_files_only=True, **family.image_settings)
