"""Names, dtypes and shapes of every tensor that crosses a graph's border.

Exporter, runtime and native code read them here. Letters: B batch, P prefix ids, S suffix ids, N image tokens, T kept
ones, M layers, H hidden size, G kv heads, D head dim, V vocabulary, C cache slots.

The prompt is ``[prefix ids | N image tokens | suffix ids]``; prefixes of one batch have equal length,
suffixes are padded on the right. Two clocks run from the prune layer K on: the *position* of a token
counts the unpruned prompt and drives the rotary embedding; the *slot* counts the rows that the caches of
layers >= K really hold. Below K both are the same.
"""

from __future__ import annotations

__all__ = [
    "CACHE_KEY",
    "CACHE_KEY_OUT",
    "CACHE_VALUE",
    "CACHE_VALUE_OUT",
    "FREE_SLOTS",
    "IMAGE",
    "IMAGE_EMBEDS",
    "INPUT_IDS",
    "KEEP",
    "LAYER_MASK",
    "LAYER_SCORES",
    "LOGITS",
    "PIXEL_VALUES",
    "POSITIONS",
    "PREFIX_IDS",
    "SLOTS",
    "SUFFIX_IDS",
    "SUFFIX_LENGTHS",
    "TOKEN_SCORES",
]

IMAGE = "image"  # uint8 [height, width, 3], RGB; input of preprocess
PIXEL_VALUES = "pixel_values"  # float32 [B, 3, size, size]; output of preprocess (B = 1), input of vision
IMAGE_EMBEDS = "image_embeds"  # engine precision [B, N, H]; output of vision, input of router and prefill
PREFIX_IDS = "prefix_ids"  # int64 [B, P]; input of router and prefill
SUFFIX_IDS = "suffix_ids"  # int64 [B, S], padded on the right with any valid id; input of router and prefill
SUFFIX_LENGTHS = "suffix_lengths"  # int64 [B], 1 to S; input of router and prefill
TOKEN_SCORES = "token_scores"  # float32 [B, N]; output of router, input of prefill where T < N
LAYER_SCORES = "layer_scores"  # float32 [B, M]; output of router, input of prefill where dynamic (B = 1)
FREE_SLOTS = "free_slots"  # int64 [1]: cache slots to leave free for new tokens; input of prefill
KEEP = "keep"  # int64 [B, T], ascending; output of prefill where T < N
LAYER_MASK = "layer_mask"  # bool [M]; output of prefill and input of decode where dynamic
LOGITS = "logits"  # float32 [B, V] of the last prompt token (prefill), [B, S, V] of every token (decode)
INPUT_IDS = "input_ids"  # int64 [B, S] new tokens; input of decode
POSITIONS = "positions"  # int64 [B]: position of the first new token; input of decode
SLOTS = "slots"  # int64 [B]: slot of the first new token in layers >= K; input of decode where T < N
# Caches, per kept layer i: engine precision [B, G, C, D]. Outputs of prefill (C = prompt rows + free slots; a
# layer that a dynamic prefill skipped has C = 0); input and output of decode, bound to the same memory, which
# the graph updates in place (TensorScatter).
CACHE_KEY = "cache_key.{layer}"
CACHE_VALUE = "cache_value.{layer}"
CACHE_KEY_OUT = "cache_key_out.{layer}"
CACHE_VALUE_OUT = "cache_value_out.{layer}"
