// The toy model of fake_sessions.hpp as plans: prefill, and decode with a cache that grows in place.
#pragma once

#include "fake_plan.hpp"
#include "fake_sessions.hpp"

namespace ar::test {

inline constexpr int64_t kCapacity = 32;  // slots of the toy's cache, one value each

inline PlanRange fixed(const Shape& shape) { return {shape, shape}; }
inline PlanRange tokens(int64_t low, int64_t high) { return {{1, low}, {1, high}}; }

inline Plan toy_decode() {
  Plan plan;
  plan.ports = {{t::kInputIds, true, Kind::kInt64},    {t::kPositions, true, Kind::kInt64},
                {t::kSlots, true, Kind::kInt64},       {"cache_key.0", true, Kind::kFloat32},
                {t::kLogits, false, Kind::kFloat32},   {"cache_key_out.0", false, Kind::kFloat32}};
  for (const PlanRange& ids : {tokens(1, 1), tokens(1, 8)}) {
    plan.profiles.push_back({{t::kInputIds, ids},
                             {t::kPositions, fixed({1})},
                             {t::kSlots, fixed({1})},
                             {"cache_key.0", fixed({1, kCapacity})}});
  }
  plan.shape = [](const std::string& output, const PlanTensors& inputs) -> Shape {
    if (output == t::kLogits) return {1, inputs.at(t::kInputIds).shape[1], kVocabulary};
    return {1, kCapacity};
  };
  plan.compute = [](const PlanTensors& tensors) {
    const PlanTensor& ids = tensors.at(t::kInputIds);
    const PlanTensor& cache = tensors.at("cache_key_out.0");
    // As TensorRT's cache update: it writes new rows alone, so the result is where the input is, or it is nothing.
    if (cache.address != tensors.at("cache_key.0").address) throw std::logic_error("the cache is not in place");
    const int64_t position = *tensors.at(t::kPositions).as<int64_t>(), slot = *tensors.at(t::kSlots).as<int64_t>();
    for (int64_t index = 0; index < ids.shape[1]; ++index) {
      const int64_t id = ids.as<int64_t>()[index];
      cache.as<float>()[slot + index] = static_cast<float>(id);
      const std::vector<float> logits = logits_for(id + position + index);
      std::copy(logits.begin(), logits.end(), tensors.at(t::kLogits).as<float>() + index * kVocabulary);
    }
  };
  return plan;
}

inline Plan toy_prefill() {
  Plan plan;
  plan.ports = {{t::kPrefixIds, true, Kind::kInt64},   {t::kSuffixIds, true, Kind::kInt64},
                {t::kImageEmbeds, true, Kind::kFloat16},    {t::kLogits, false, Kind::kFloat32},
                {t::kKeep, false, Kind::kInt64},       {"cache_key.0", false, Kind::kFloat32}};
  plan.profiles = {{{t::kPrefixIds, tokens(1, 16)},
                    {t::kSuffixIds, tokens(1, 16)},
                    {t::kImageEmbeds, fixed({1, kImageEmbeds, 2})}}};
  plan.shape = [](const std::string& output, const PlanTensors&) -> Shape {
    if (output == t::kLogits) return {1, kVocabulary};
    return output == t::kKeep ? Shape{1, kKept} : Shape{1, kCapacity};
  };
  plan.compute = [](const PlanTensors& tensors) {
    int64_t sum = 0;
    for (const char* side : {t::kPrefixIds, t::kSuffixIds}) {
      const PlanTensor& ids = tensors.at(side);
      sum = std::accumulate(ids.as<int64_t>(), ids.as<int64_t>() + ids.shape[1], sum);
    }
    const std::vector<float> logits = logits_for(sum);
    std::copy(logits.begin(), logits.end(), tensors.at(t::kLogits).as<float>());
    tensors.at(t::kKeep).as<int64_t>()[0] = 1;
    tensors.at(t::kKeep).as<int64_t>()[1] = 3;
    std::fill_n(tensors.at("cache_key.0").as<float>(), kCapacity, 0.0f);
  };
  return plan;
}

// Gives image tokens in half precision, whatever it sees.
inline Plan toy_vision() {
  Plan plan;
  plan.ports = {{t::kPixelValues, true, Kind::kFloat32}, {t::kImageEmbeds, false, Kind::kFloat16}};
  plan.profiles = {{{t::kPixelValues, fixed({1, 3, 4, 4})}}};
  plan.shape = [](const std::string&, const PlanTensors&) { return Shape{1, kImageEmbeds, 2}; };
  plan.compute = [](const PlanTensors& tensors) {
    std::fill_n(tensors.at(t::kImageEmbeds).as<uint16_t>(), kImageEmbeds * 2, uint16_t{0x3c00});
  };
  return plan;
}

}  // namespace ar::test
