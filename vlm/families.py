"""The families of models: a folder each, and one entry of this table, by the ``model_type`` of ``config.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from torch import Tensor
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from allrounder.images.plan import ImagePlan
from allrounder.images.planning import Extent
from allrounder.vlm.internvl import images as internvl
from allrounder.vlm.internvl import spec as internvl_spec
from allrounder.vlm.internvl.names import INTERNVL
from allrounder.vlm.llava import images as llava
from allrounder.vlm.llava_next import images as llava_next
from allrounder.vlm.llava_onevision import images as llava_onevision
from allrounder.vlm.parts.modules import LLAVA_MODULES, Modules
from allrounder.vlm.parts.names import LLAVA, Names
from allrounder.vlm.parts.spec import model_spec
from allrounder.vlm.parts.tower import VISION_FAMILIES
from allrounder.vlm.smolvlm import images as smolvlm
from allrounder.vlm.smolvlm import spec as smolvlm_spec
from allrounder.vlm.smolvlm.names import SMOLVLM, SMOLVLM_MODULES
from allrounder.vlm.spec import ModelSpec

__all__ = ["FAMILIES", "Family"]


@dataclass(frozen=True, slots=True)
class Family:
    """What pruning asks of a family; ``docs/adding-a-family.md`` says how to add one."""

    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    image_processor: type | None  # on Pillow; None: whichever the directory names
    spec: Callable[[Any], ModelSpec]  # of a stock config
    image_plan: Callable[[Any, Any, ModelSpec], ImagePlan]  # of a `Processor`, for a config and its spec
    # Image tokens [N, H] by the stock model, of tiles float32 [tiles, 3, S, S] and the height and width of each image:
    # those of one prompt, one after another.
    image_embeds: Callable[[Any, Tensor, Sequence[Extent]], Tensor]
    names: Names = LLAVA
    towers: tuple[str, ...] = tuple(VISION_FAMILIES)  # `vision_config.model_type`
    image_role: str = "image_token"  # what the tokenizer calls the token that stands for an image
    image_settings: Mapping[str, Any] = field(default_factory=dict)  # of the image processor, whatever its file says
    modules: Modules = LLAVA_MODULES


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
    "internvl": Family(
        InternVLConfig,
        InternVLForConditionalGeneration,
        GotOcr2ImageProcessorPil,
        internvl_spec.model_spec,
        internvl.image_plan,
        internvl.image_embeds,
        INTERNVL,
        internvl_spec.TOWERS,
        internvl.IMAGE_ROLE,
        internvl.IMAGE_SETTINGS,
    ),
    "smolvlm": Family(
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessorPil,
        smolvlm_spec.model_spec,
        smolvlm.image_plan,
        smolvlm.image_embeds,
        names=SMOLVLM,
        modules=SMOLVLM_MODULES,
        towers=smolvlm_spec.TOWERS,
    ),
    "idefics3": Family(
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        smolvlm_spec.model_spec,
        smolvlm.image_plan,
        smolvlm.image_embeds,
        names=SMOLVLM,
        modules=SMOLVLM_MODULES,
        towers=smolvlm_spec.TOWERS,
    ),
}
