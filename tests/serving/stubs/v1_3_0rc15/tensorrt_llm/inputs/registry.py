"""tensorrt_llm/inputs/registry.py, main in the spring of 2026, before #14370: `__call__` is abstract."""

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
