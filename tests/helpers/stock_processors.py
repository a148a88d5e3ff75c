"""The stock processors of tile models, made of their directories; torchvision is not needed.

Some want a video processor, which wants torchvision; one that is never called takes its place.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import AutoTokenizer, Idefics3Processor, LlavaNextProcessor, ProcessorMixin
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor
from transformers.models.smolvlm import processing_smolvlm

from allrounder.vlm.families import FAMILIES

_OURS = ("image_processor", "processor_class", "image_token", "video_token")


class _WithoutVideo(ProcessorMixin):
    """A stock class but for its check that there is a video processor; what it does with images is untouched."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor":
            return None
        return super().check_argument_for_proper_class(argument_name, argument)


class _Onevision(_WithoutVideo, LlavaOnevisionProcessor): ...


class _InternVL(_WithoutVideo, InternVLProcessor): ...


class _SmolVLM(_WithoutVideo, processing_smolvlm.SmolVLMProcessor): ...


_VIDEOS = SimpleNamespace(num_frames=None, fps=None)  # SmolVLM's reads settings of videos where there is none
processing_smolvlm.num2words = processing_smolvlm.num2words or str  # spells the number of frames of a video


_PROCESSORS: dict[str, Any] = {
    "llava_next": LlavaNextProcessor,
    "llava_onevision": _Onevision,
    "internvl": _InternVL,
    "smolvlm": partial(_SmolVLM, video_processor=_VIDEOS),
    "idefics3": Idefics3Processor,
}


def stock_processor(directory: Path) -> Any:
    settings = json.loads((directory / "processor_config.json").read_text())
    family = json.loads((directory / "config.json").read_text())["model_type"]
    kind: Any = FAMILIES[family].image_processor
    images = kind.from_pretrained(str(directory))
    tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    chosen = {key: value for key, value in settings.items() if key not in _OURS}
    chosen["chat_template"] = (directory / "chat_template.jinja").read_text(encoding="utf-8")
    return _PROCESSORS[family](image_processor=images, tokenizer=tokenizer, **chosen)
