"""tensorrt_llm/inputs/registry.py, main in the summer of 2026, after #14370: `call_with_text_prompt` is abstract."""

from stub_registry import (
    MultimodalPlaceholderMetadata,
    MultimodalPlaceholderPlacement,
    TextPromptProcessor,
    register_input_processor,
)

__all__ = [
    "BaseMultimodalInputProcessor",
    "MultimodalPlaceholderMetadata",
    "MultimodalPlaceholderPlacement",
    "register_input_processor",
]


class BaseMultimodalInputProcessor(TextPromptProcessor):
    pass
