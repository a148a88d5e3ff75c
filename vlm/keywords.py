"""What the installed transformers calls a key-value cache: `cache` from 5.24 on, `past_key_values` before.

`CACHE` is the keyword of layers and models, and the name of the cache in what a model returns.
"""

from inspect import signature

from transformers.models.llama.modeling_llama import LlamaDecoderLayer

__all__ = ["CACHE"]

CACHE = "cache" if "cache" in signature(LlamaDecoderLayer.forward).parameters else "past_key_values"
