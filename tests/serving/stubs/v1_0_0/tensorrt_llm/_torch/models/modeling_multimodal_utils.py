"""tensorrt_llm/_torch/models/modeling_multimodal_utils.py at commit 000a01de, whose version.py says 1.0.0rc4."""

from stub_behaviour import fuse


def fuse_input_embeds(embedding_layer, input_ids, mm_embeds, mm_token_ids=None):
    return fuse(embedding_layer, input_ids, mm_embeds)
