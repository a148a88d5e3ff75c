// A toy model as plans: a decoder with one cache that grows in place, and a vision tower.
//
// The best token after one is (its id + its position) modulo `kWords`; the cache keeps ids.
#pragma once

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

#include "contract/tensors.hpp"
#include "fake_plan.hpp"

namespace ar::test {

namespace t = tensors;

inline constexpr int64_t kWords = 11, kCapacity = 32;
inline constexpr int64_t kMostNew = 8, kMostRows = 24, kMostImageTokens = 8, kMostKept = 4;
inline constexpr const char* kKept = "tokens_to_keep";  // as engines/tensorrt/form.py calls it

struct Sizes {  // the most of each in a profile
  int64_t rows, logits, image_tokens, images, kept;
};

// Returns the ranges of a decoder's profile; of images none are few enough.
inline std::map<std::string, PlanRange> decoder_profile(const Sizes& most) {
  const auto fixed = [](const Shape& shape) { return PlanRange{shape, shape}; };
  return {{t::kInputIds, {{1, 1}, {1, most.rows}}},
          {t::kPositionIds, {{1, 1, 1}, {1, 1, most.rows}}},
          {t::kSlots, fixed({1})},
          {t::kKeptSlots, fixed({1})},
          {t::kImageEmbeds, {{0, 2}, {most.image_tokens, 2}}},
          {t::kImageIndex, {{0}, {most.image_tokens}}},
          {t::kImageOf, {{0}, {most.image_tokens}}},
          {t::kTokenScores, {{0}, {most.image_tokens}}},
          {t::kKeepCounts, {{0}, {most.images}}},
          {kKept, {{0}, {most.kept}}},
          {t::kLogitsToKeep, {{1}, {most.logits}}},
          {"cache_key.0", fixed({1, 1, kCapacity, 1})}};
}

inline Plan toy_decoder() {
  Plan plan;
  for (const auto& [name, range] : decoder_profile({1, 1, 0, 0, 0})) {
    const bool scores = name == t::kTokenScores || name == "cache_key.0";
    plan.ports.push_back({name, true, scores                     ? Kind::kFloat32
                                      : name == t::kImageEmbeds ? Kind::kFloat16
                                                                 : Kind::kInt64});
  }
  plan.ports.push_back({t::kLogits, false, Kind::kFloat32});
  plan.ports.push_back({t::kKeepIndices, false, Kind::kInt64});
  plan.ports.push_back({"cache_key_out.0", false, Kind::kFloat32});
  plan.profiles = {decoder_profile({1, 1, 0, 0, 0}), decoder_profile({kMostNew, kMostNew, 0, 0, 0}),
                   decoder_profile({kMostRows, 1, kMostImageTokens, 2, kMostKept})};
  plan.shape = [](const std::string& output, const PlanTensors& inputs) -> Shape {
    if (output == t::kLogits) return {1, inputs.at(t::kLogitsToKeep).shape[0], kWords};
    if (output == t::kKeepIndices) return inputs.at(kKept).shape;
    return {1, 1, kCapacity, 1};
  };
  plan.compute = [](const PlanTensors& tensors) {
    const int64_t rows = tensors.at(t::kInputIds).shape[1], wanted = tensors.at(t::kLogits).shape[1];
    const auto* ids = tensors.at(t::kInputIds).as<int64_t>();
    const auto* positions = tensors.at(t::kPositionIds).as<int64_t>();
    auto* cache = tensors.at("cache_key_out.0").as<float>() + *tensors.at(t::kSlots).as<int64_t>();
    // As TensorRT's cache update: it writes new rows alone, so the result is where the input is, or it is nothing.
    if (tensors.at("cache_key_out.0").address != tensors.at("cache_key.0").address) {
      throw std::logic_error("the cache is not in place");
    }
    std::copy(ids, ids + rows, cache);
    auto* logits = tensors.at(t::kLogits).as<float>();
    std::fill_n(logits, wanted * kWords, 0.0f);
    for (int64_t index = 0; index < wanted; ++index) {
      const int64_t row = rows - wanted + index;
      logits[index * kWords + (ids[row] + positions[row]) % kWords] = 5;
    }
    const PlanTensor& kept = tensors.at(t::kKeepIndices);
    std::iota(kept.as<int64_t>(), kept.as<int64_t>() + kept.shape[0], int64_t{1});
  };
  return plan;
}

// Gives image tokens in half precision, whatever it sees.
inline Plan toy_vision() {
  Plan plan;
  plan.ports = {{t::kTiles, true, Kind::kUint8}, {t::kImageEmbeds, false, Kind::kFloat16}};
  plan.profiles = {{{t::kTiles, {{1, 4, 4, 3}, {1, 4, 4, 3}}}}};
  plan.shape = [](const std::string&, const PlanTensors&) { return Shape{4, 2}; };
  plan.compute = [](const PlanTensors& tensors) {
    std::fill_n(tensors.at(t::kImageEmbeds).as<uint16_t>(), 4 * 2, uint16_t{0x3c00});
  };
  return plan;
}

}  // namespace ar::test
