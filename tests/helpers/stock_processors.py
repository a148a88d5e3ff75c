"""The stock processors of canvas models, made of their directories; torchvision is not needed.

`LlavaOnevisionProcessor` wants a video processor, which wants torchvision; one that is never called takes its place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, LlavaNextProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

_OURS = ("image_processor", "processor_class", "image_token", "video_token")


class _WithoutVideo(LlavaOnevisionProcessor):
    """The stock class but for its check that there is a video processor; what it does with images is untouched."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor":
            return None
        return super().check_argument_for_proper_class(argument_name, argument)


def stock_processor(directory: Path) -> Any:
    settings = json.loads((directory / "processor_config.json").read_text())
    chosen = {key: value for key, value in settings.items() if key not in _OURS}
    tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    template = (directory / "chat_template.jinja").read_text(encoding="utf-8")
    if settings["processor_class"] == "LlavaNextProcessor":
        images = LlavaNextImageProcessorPil.from_pretrained(str(directory))
        return LlavaNextProcessor(images, tokenizer, chat_template=template, **chosen)
    images = LlavaOnevisionImageProcessorPil.from_pretrained(str(directory))
    return _WithoutVideo(images, tokenizer, None, chat_template=template, **chosen)
