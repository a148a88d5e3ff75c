"""tensorrt_llm/_torch/models/modeling_multimodal_mixin.py at commit 002f3cc3 (2026): that the mark exists."""


class MultimodalModelMixin:
    supports_encoder_cache = False
    supports_mm_encoder_item_scheduling = False
