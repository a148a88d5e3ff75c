"""What tensorrt_llm/inputs/registry.py has alike in several releases; where a release differs, its own file says so."""

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from stub_behaviour import PLACEHOLDERS, PROCESSORS


class BaseMultimodalInputProcessor(ABC):
    """Of 1.2.1 and later, without the methods that take a prompt."""

    def __init__(self, model_path, config, tokenizer, trust_remote_code: bool = True, **kwargs) -> None:
        super().__init__(**kwargs)
        self._config = config
        self._model_path = model_path
        self._tokenizer = tokenizer
        self._multimodal_hashing_supported = None

    def attach_multimodal_embeddings(self, inputs, multimodal_embedding, sampling_params):
        raise NotImplementedError("Input processor does not support multimodal embedding input")

    @property
    @abstractmethod
    def processor(self): ...

    @property
    @abstractmethod
    def tokenizer(self): ...

    @property
    @abstractmethod
    def config(self): ...

    @property
    @abstractmethod
    def dtype(self): ...

    @property
    def multimodal_hashing_supported(self):
        return self._multimodal_hashing_supported

    @multimodal_hashing_supported.setter
    def multimodal_hashing_supported(self, value) -> None:
        self._multimodal_hashing_supported = value

    def get_vocab_size(self):
        return int(self.config.vocab_size)

    def get_mm_token_ids(self):
        return getattr(self.processor, "mm_token_ids", None)

    def get_mm_special_token_ids(self):
        return getattr(self.processor, "mm_special_token_ids", None)

    def get_num_tokens_per_image(self, *, image, **kwargs):
        raise NotImplementedError


class TextPromptProcessor(BaseMultimodalInputProcessor):
    """After #14370: `call_with_text_prompt` is abstract, and `__call__` sorts out ids and text."""

    supports_token_id_mm_expansion = False

    def attach_multimodal_embeddings(self, inputs, multimodal_embedding, sampling_params):
        return self._attach_multimodal_embeddings_impl(inputs, multimodal_embedding, sampling_params)

    def _attach_multimodal_embeddings_impl(self, inputs, multimodal_embedding, sampling_params):
        raise NotImplementedError("Input processor does not support multimodal embedding input")

    def __call__(self, inputs, sampling_params):
        if (
            inputs.get("prompt_token_ids") is not None
            and inputs.get("multi_modal_data")
            and inputs.get("prompt") is None
        ):
            inputs = {**inputs, "prompt": self.tokenizer.decode(inputs["prompt_token_ids"])}
            sampling_params.add_special_tokens = False
        return self.call_with_text_prompt(inputs, sampling_params)

    @abstractmethod
    def call_with_text_prompt(self, inputs, sampling_params): ...


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
    """Of 1.1 and later."""

    def wrapper(model_cls):
        if placeholder_metadata is None:
            raise ValueError("a valid placeholder_metadata must be provided")
        PROCESSORS[model_cls] = processor_cls
        PLACEHOLDERS[model_type] = placeholder_metadata
        return model_cls

    return wrapper
