"""Names, dtypes and shapes of every tensor that crosses a graph's border.

Exporter, runtime and native code read them here. Letters: B sequences, S new rows, N image tokens of I images,
M layers, H hidden size, G kv heads, D head dim, V vocabulary, C cache slots, A rows of positions.

One decoder graph runs prompts and new tokens. A prompt is a batch of one, whatever images it has; new tokens come in
batches, with N = 0. Two clocks run from the prune layer K on: the *position* of a token counts the unpruned prompt and
drives the rotary embedding; the *slot* counts the rows that the caches of layers >= K really hold.
"""

from __future__ import annotations

__all__ = [
    "CACHE_KEY",
    "CACHE_KEY_OUT",
    "CACHE_VALUE",
    "CACHE_VALUE_OUT",
    "IMAGE_EMBEDS",
    "IMAGE_INDEX",
    "IMAGE_OF",
    "INPUT_IDS",
    "KEEP_COUNTS",
    "KEEP_INDICES",
    "KEPT_SLOTS",
    "LAYER_MASK",
    "LAYER_SCORES",
    "LOGITS",
    "LOGITS_TO_KEEP",
    "POSITION_IDS",
    "SLOTS",
    "TILES",
    "TOKEN_ROWS",
    "TOKEN_SCORES",
    "TOKEN_WEIGHTS",
]

TILES = "tiles"  # uint8 [tiles, size, size, 3], RGB; input of vision
TOKEN_ROWS = "token_rows"  # int64 [N, 4]: rows of all tiles, newline last; input of vision with canvases
TOKEN_WEIGHTS = "token_weights"  # float32 [N, 4]: their shares in each image token; input of vision with canvases
IMAGE_EMBEDS = "image_embeds"  # engine precision [N, H]; output of vision, input of router and decoder
INPUT_IDS = "input_ids"  # int64 [B, S]; input of router and decoder; any valid id where image tokens stand
IMAGE_INDEX = "image_index"  # int64 [N], ascending: rows of the image tokens; input of router and decoder
IMAGE_OF = "image_of"  # int64 [N]: whose image tokens they are; input of router and, where it prunes, of decoder
POSITION_IDS = "position_ids"  # int64 [A, B, S]; input of router and decoder
TOKEN_SCORES = "token_scores"  # float32 [N]; output of router, input of decoder where it prunes
LAYER_SCORES = "layer_scores"  # float32 [M]; output of router
KEEP_COUNTS = "keep_counts"  # int64 [I]: T_i, image tokens of each image to keep; input of decoder where it prunes
KEEP_INDICES = "keep_indices"  # int64 [T], ascending, into the N image tokens; output of decoder where it prunes
LAYER_MASK = "layer_mask"  # bool [M]: the layers to run; input of decoder where dynamic (B = 1)
SLOTS = "slots"  # int64 [B]: where the first new row goes in caches below K, and everywhere if nothing is pruned
KEPT_SLOTS = "kept_slots"  # int64 [B]: the same for caches of layers >= K; input of decoder where it prunes
LOGITS_TO_KEEP = "logits_to_keep"  # int64 [1]: Q, of how many last rows logits are wanted; input of decoder
LOGITS = "logits"  # float32 [B, Q, V]; output of decoder
# Caches, per kept layer i: engine precision [B, G, C, D]; inputs and outputs of decoder, bound to the same memory,
# which the graph updates in place (TensorScatter). A layer that a request skips has C = 0.
CACHE_KEY = "cache_key.{layer}"
CACHE_VALUE = "cache_value.{layer}"
CACHE_KEY_OUT = "cache_key_out.{layer}"
CACHE_VALUE_OUT = "cache_value_out.{layer}"
