"""``LlavaForConditionalGeneration`` for TensorRT-LLM's PyTorch backend: importing this module registers it.

It is a stock decoder of TensorRT-LLM behind image tokens that come with the request. Vision tower and projector are not
here: the input processor (`processor`) makes the rows, before the decoder, which is K = 0.

Kept rows get the positions of the unpruned prompt (`positions`). That needs attention that rotates by the positions it
is given: FLASHINFER's does. The default, TRTLLM, counts positions in its kernel; it is refused, unless the environment
says ALLROUNDER_TRTLLM_POSITIONS=counted, which is another computation than the one whose fidelity was measured.

The registration must happen at import: worker processes of later releases find a model by the name of its module.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers import LlavaConfig, PreTrainedModel

from allrounder.errors import EngineUnavailable, ModelUnreadable, ModelUnsupported
from allrounder.serving.tensorrt_llm.api import load_api, require_images
from allrounder.serving.tensorrt_llm.positions import Positions
from allrounder.serving.tensorrt_llm.processor import processor_class

__all__ = ["PrunedLlava"]

_API = load_api()
_PROCESSOR = processor_class(_API)
# Architectures of TensorRT-LLM by Hugging Face's model type: a LLaVA's text config does not always name its own.
_DECODERS = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# Decoder weights as transformers has written them, and as TensorRT-LLM's decoders name them; the first that fits.
_NAMES = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
    ("lm_head.", "lm_head."),
)
_BACKEND, _VARIABLE = "FLASHINFER", "ALLROUNDER_TRTLLM_POSITIONS"
_ROWS = "multimodal_embedding"  # of a request's multimodal data


@_API.register_model("LlavaForConditionalGeneration")
@_API.register_processor(_PROCESSOR)
class PrunedLlava(PreTrainedModel):
    """The decoder of a pruned LLaVA. Names of methods and attributes are TensorRT-LLM's."""

    config_class = LlavaConfig

    def __init__(self, model_config: Any, *_args: Any, **_kwargs: Any) -> None:
        super().__init__(model_config.pretrained_config)
        require_images(_API, self, _PROCESSOR)
        text = model_config.pretrained_config.text_config
        if text.model_type not in _DECODERS:
            raise ModelUnsupported(
                "there is no decoder for this model",
                where="text_config.model_type",
                got=text.model_type,
                wanted=", ".join(_DECODERS),
            )
        text.architectures = [_DECODERS[text.model_type]]
        decoder_config = copy.deepcopy(model_config)
        decoder_config.pretrained_config = text
        self.llm = _API.decoder_from_config(decoder_config)
        self._positions = Positions.of(model_config.pretrained_config.name_or_path)
        self._rotated_outside = self._positions.dropped > 0 and _rotated_outside(self.llm)
        self.model_config = model_config
        # From here on the executor gets the decoder's config: its heads and layers size the KV cache.
        self.config = model_config.pretrained_config = self.llm.config

    @classmethod
    def get_model_defaults(cls, _llm_args: Any) -> dict[str, Any]:
        """Cached blocks are not reused: other questions about one image may keep other rows of it."""
        backend = {} if _counted() else {"attn_backend": _BACKEND}
        return {"kv_cache_config": {"enable_block_reuse": False}, **backend}

    @property
    def multimodal_data_device_paths(self) -> list[str]:
        """What of a request's multimodal data goes to the GPU."""
        return [_ROWS]

    @property
    def vocab_size_padded(self) -> int:
        return self.llm.vocab_size_padded

    def infer_max_seq_len(self) -> int:
        """The decoder's, less the places of the dropped rows: positions run on behind them."""
        return self.llm.infer_max_seq_len() - self._positions.dropped

    def load_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Hands the decoder's weights on; those of tower and projector are not needed.

        Raises:
            ModelUnreadable: None is the decoder's.
        """
        found: dict[str, torch.Tensor] = {}
        for stored in list(weights.keys()):
            for old, new in _NAMES:
                if stored.startswith(old):
                    found[new + stored.removeprefix(old)] = weights[stored]
                    break
        if not found:
            raise ModelUnreadable("the checkpoint has no decoder weights", wanted=" or ".join(old for old, _ in _NAMES))
        self.llm.load_weights(found)

    @torch.inference_mode()
    def forward(
        self,
        attn_metadata: Any,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        return_context_logits: bool = False,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Puts the rows in the places of their ids and runs the decoder."""
        requests = [
            request
            for request in list(kwargs.pop("multimodal_params", None) or [])[: attn_metadata.num_contexts]
            if (request.multimodal_data or {}).get(_ROWS) is not None and _in_this_chunk(request)
        ]
        if self._rotated_outside and input_ids is not None and position_ids is not None:
            position_ids = self._positions.unpruned(input_ids, position_ids, self.config.vocab_size)
        if requests:
            rows = [request.multimodal_data[_ROWS] for request in requests]
            places = {name: kwargs[name] for name in ("text_token_indices", "mm_token_indices") if name in kwargs}
            cut = _API.rows_of_chunk(rows, requests)
            input_ids, inputs_embeds = _API.fuse(self.llm.model.embed_tokens, input_ids, cut, **places)
        return self.llm.forward(
            attn_metadata=attn_metadata,
            input_ids=input_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_context_logits=return_context_logits,
        )


def _counted() -> bool:
    """Whether counted positions were asked for."""
    return os.environ.get(_VARIABLE) == "counted"


def _rotated_outside(decoder: torch.nn.Module) -> bool:
    """Whether attention rotates by the positions that the model gives; counted ones must be asked for.

    Raises:
        EngineUnavailable: It does not, or does not say.
    """
    fused = {module.rope_fusion for module in decoder.modules() if hasattr(module, "rope_fusion")}
    if fused == {False} or (fused and _counted()):
        return fused == {False}
    raise EngineUnavailable(
        "attention would count the kept rows instead of using their positions, and answers would be worse",
        where="attn_backend",
        got=f"rope_fusion {sorted(map(str, fused)) or 'of no layer'} (tensorrt_llm {_API.release})",
        wanted=f"attention that rotates outside its kernel: {_BACKEND}",
        remedy=f"LLM(..., attn_backend='{_BACKEND}'), as config.yaml says; or {_VARIABLE}=counted to do without",
    )


def _in_this_chunk(request: Any) -> bool:
    """Whether rows of a request are in the part of its prompt that is run now; without chunks all are."""
    runtime = getattr(request, "multimodal_runtime", None)
    return runtime is None or getattr(runtime, "num_mm_tokens_in_chunk", None) != 0
