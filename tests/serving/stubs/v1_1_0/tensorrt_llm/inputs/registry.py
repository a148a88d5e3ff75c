"""tensorrt_llm/inputs/registry.py, main in the autumn of 2025: after #6497, the base class not abstract yet."""

from stub_registry import (
    MultimodalPlaceholderMetadata,
    MultimodalPlaceholderPlacement,
    register_input_processor,
)

__all__ = [
    "BaseMultimodalInputProcessor",
    "MultimodalPlaceholderMetadata",
    "MultimodalPlaceholderPlacement",
    "register_input_processor",
]


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
