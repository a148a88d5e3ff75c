"""tensorrt_llm/inputs/registry.py, main in the autumn of 2025: after #6497, the base class not abstract yet."""

import enum
from dataclasses import dataclass, field

from stub_behaviour import PLACEHOLDERS, PROCESSORS


class BaseMultimodalInputProcessor:
    def get_processor(self):
        if not hasattr(self, "processor") and not hasattr(self, "_processor"):
            raise NotImplementedError("cannot find processor")
        return getattr(self, "processor", getattr(self, "_processor", None))

    def get_vocab_size(self):
        return int(self.model_config.vocab_size)

    def get_mm_token_ids(self):
        return getattr(self.get_processor(), "mm_token_ids", None)

    def get_mm_special_token_ids(self):
        return None

    def get_num_tokens_per_image(self, *, image, **kwargs):
        raise NotImplementedError


class MultimodalPlaceholderPlacement(enum.Enum):
    INVALID = -1
    BEFORE_TEXT = 0
    AFTER_TEXT = 1


@dataclass(frozen=True)
class MultimodalPlaceholderMetadata:
    placeholder_map: dict[str, str] = field(default_factory=dict)
    placeholder_placement: MultimodalPlaceholderPlacement = MultimodalPlaceholderPlacement.AFTER_TEXT
    placeholders_separator: str = "\n"


def register_input_processor(
    processor_cls, model_type: str, placeholder_metadata: MultimodalPlaceholderMetadata = None
):
    def wrapper(model_cls):
        if placeholder_metadata is None:
            raise ValueError("a valid placeholder_metadata must be provided")
        PROCESSORS[model_cls] = processor_cls
        PLACEHOLDERS[model_type] = placeholder_metadata
        return model_cls

    return wrapper
