"""tensorrt_llm/inputs/registry.py, main at the turn of 2025 to 2026 (after #9664): the base class is abstract."""

from abc import abstractmethod

from stub_registry import BaseMultimodalInputProcessor as Shared
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


class BaseMultimodalInputProcessor(Shared):
    @abstractmethod
    def __call__(self, inputs, sampling_params): ...
