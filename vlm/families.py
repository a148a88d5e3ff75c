"""The families of models: a folder each, and one entry of this table, by the ``model_type`` of ``config.json``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from torch import Tensor
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from allrounder.images.plan import ImagePlan
from allrounder.images.planning import Extent
from allrounder.vlm.llava import images as llava
from allrounder.vlm.llava_next import images as llava_next
from allrounder.vlm.llava_onevision import images as llava_onevision
from allrounder.vlm.parts.spec import model_spec
from allrounder.vlm.spec import ModelSpec

__all__ = ["FAMILIES", "Family"]


@dataclass(frozen=True, slots=True)
class Family:
    """What pruning asks of a family; ``docs/adding-a-family.md`` says how to add one."""

    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    image_processor: type | None  # on Pillow; None: whichever the directory names
    spec: Callable[[Any], ModelSpec]  # of a stock config
    image_plan: Callable[[Any, Any, ModelSpec], ImagePlan]  # of a stock image processor, for a config and its spec
    # Image tokens [N, H] by the stock model, of tiles float32 [tiles, 3, S, S] and the height and width of each image:
    # those of one prompt, one after another.
    image_embeds: Callable[[Any, Tensor, Sequence[Extent]], Tensor]


FAMILIES: Final[dict[str, Family]] = {
    "llava": Family(LlavaConfig, LlavaForConditionalGeneration, None, model_spec, llava.image_plan, llava.image_embeds),
    "llava_next": Family(
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessorPil,
        partial(model_spec, newline=True),
        llava_next.image_plan,
        llava_next.image_embeds,
    ),
    "llava_onevision": Family(
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessorPil,
        partial(model_spec, newline=True),
        llava_onevision.image_plan,
        llava_onevision.image_embeds,
    ),
}
