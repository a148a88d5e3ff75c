"""tensorrt_llm/inputs/registry.py at commit 002f3cc3 (2026)."""

from dataclasses import dataclass

from stub_registry import MultimodalPlaceholderMetadata as Shared
from stub_registry import MultimodalPlaceholderPlacement, TextPromptProcessor, register_input_processor

__all__ = [
    "BaseMultimodalInputProcessor",
    "MultimodalPlaceholderMetadata",
    "MultimodalPlaceholderPlacement",
    "register_input_processor",
]


class BaseMultimodalInputProcessor(TextPromptProcessor):
    mm_bidirectional_blocks = False


@dataclass(frozen=True)
class MultimodalPlaceholderMetadata(Shared):
    content_format: object = None
    interleave_placeholders: bool = False
