"""tensorrt_llm/_torch/models/modeling_multimodal_utils.py, main at the turn of 2025 to 2026."""

from stub_behaviour import cut, fuse


def find_input_mm_embeds(mm_embeds, multimodal_params):
    return cut(mm_embeds, multimodal_params)


def fuse_input_embeds(
    embedding_layer, input_ids, mm_embeds, mm_token_ids=None, text_token_indices=None, mm_token_indices=None, **kwargs
):
    return fuse(embedding_layer, input_ids, mm_embeds, mm_token_indices)
