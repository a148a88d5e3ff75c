// Names of every tensor that crosses a graph's border; meaning and shapes are in allrounder/tensors.py, and a test
// compares the two.
#pragma once

namespace ar::tensors {

inline constexpr const char* kImage = "image";                    // uint8 [height, width, 3]
inline constexpr const char* kPixelValues = "pixel_values";       // float32 [B, 3, size, size]
inline constexpr const char* kImageEmbeds = "image_embeds";       // engine precision [B, N, H]
inline constexpr const char* kPrefixIds = "prefix_ids";           // int64 [B, P]
inline constexpr const char* kSuffixIds = "suffix_ids";           // int64 [B, S]
inline constexpr const char* kSuffixLengths = "suffix_lengths";   // int64 [B]
inline constexpr const char* kTokenScores = "token_scores";       // float32 [B, N]
inline constexpr const char* kLayerScores = "layer_scores";       // float32 [B, M]
inline constexpr const char* kFreeSlots = "free_slots";           // int64 [1]
inline constexpr const char* kKeep = "keep";                      // int64 [B, T]
inline constexpr const char* kLayerMask = "layer_mask";           // bool [M]
inline constexpr const char* kLogits = "logits";                  // float32 [B, V] (prefill), [B, S, V] (decode)
inline constexpr const char* kInputIds = "input_ids";             // int64 [B, S]
inline constexpr const char* kPositions = "positions";            // int64 [B]
inline constexpr const char* kSlots = "slots";                    // int64 [B]
inline constexpr const char* kCachePrefix = "cache_";             // cache_key.3, cache_value.3: inputs, prefill outputs
inline constexpr const char* kCacheOutSuffix = "_out";            // cache_key_out.3: decode outputs, in place

}  // namespace ar::tensors
