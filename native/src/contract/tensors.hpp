// Names of every tensor that crosses a graph's border; meaning and shapes are in allrounder/tensors.py, and a test
// compares the two.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace ar::tensors {

inline constexpr const char* kTiles = "tiles";                    // uint8 [tiles, size, size, 3]
inline constexpr const char* kTokenRows = "token_rows";           // int64 [N, 4]
inline constexpr const char* kTokenWeights = "token_weights";     // float32 [N, 4]
inline constexpr const char* kImageEmbeds = "image_embeds";       // engine precision [N, H]
inline constexpr const char* kInputIds = "input_ids";             // int64 [B, S]
inline constexpr const char* kImageIndex = "image_index";         // int64 [N]
inline constexpr const char* kImageOf = "image_of";               // int64 [N]
inline constexpr const char* kPositionIds = "position_ids";       // int64 [A, B, S]
inline constexpr const char* kTokenScores = "token_scores";       // float32 [N]
inline constexpr const char* kLayerScores = "layer_scores";       // float32 [M]
inline constexpr const char* kKeepCounts = "keep_counts";         // int64 [I]
inline constexpr const char* kKeepIndices = "keep_indices";       // int64 [T]
inline constexpr const char* kLayerMask = "layer_mask";           // bool [M]
inline constexpr const char* kSlots = "slots";                    // int64 [B]
inline constexpr const char* kKeptSlots = "kept_slots";           // int64 [B]
inline constexpr const char* kLogitsToKeep = "logits_to_keep";    // int64 [1]
inline constexpr const char* kLogits = "logits";                  // float32 [B, Q, V]
inline constexpr const char* kCachePrefix = "cache_";             // cache_key.3, cache_value.3: [B, G, C, D]
inline constexpr const char* kCacheOutSuffix = "_out";            // cache_key_out.3: the same memory, in place

// Returns the layer of a cache input, or nothing where it is no such input.
std::optional<int64_t> cache_layer(const std::string& input);

// Returns the output's name of a cache input, whose memory it shares: cache_key.3 -> cache_key_out.3; of any other
// input nothing.
std::optional<std::string> cache_output(const std::string& input);

}  // namespace ar::tensors
