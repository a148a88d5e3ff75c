"""tensorrt_llm/_torch/pyexecutor/engine/multimodal.py of main, autumn of 2026 (commit 9ea01c46 has the path)."""

from tensorrt_llm._torch.models.modeling_multimodal_mixin import MultimodalModelMixin
from tensorrt_llm.inputs.registry import BaseMultimodalInputProcessor


def is_multimodal(model, input_processor) -> bool:
    if isinstance(model, MultimodalModelMixin):
        return True
    return isinstance(input_processor, BaseMultimodalInputProcessor)
