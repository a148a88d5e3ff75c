#include "runtime/cache.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "contract/error.hpp"
#include "contract/tensors.hpp"

namespace ar {
namespace {

void set(Cell& cell, int64_t value) { std::memcpy(cell.values(), &value, sizeof value); }

}  // namespace

std::optional<std::string> cache_output(const std::string& input) {
  if (input.rfind(tensors::kCachePrefix, 0) != 0) return std::nullopt;
  const std::size_t dot = std::min(input.find('.'), input.size());
  return input.substr(0, dot) + tensors::kCacheOutSuffix + input.substr(dot);
}

Cache::Cache(std::shared_ptr<const Session> decode, const Tensors& tensors, const Clocks& clocks, int64_t vocabulary)
    : decode_(std::move(decode)), clocks_(clocks), vocabulary_(vocabulary) {
  position_ = decode_->cell({Kind::kInt64, {1}, &clocks_.position});
  slot_ = decode_->cell({Kind::kInt64, {1}, &clocks_.slot});
  Tensors known = tensors;
  known[tensors::kPositions] = position_;
  known[tensors::kSlots] = slot_;
  for (const std::string& name : decode_->inputs()) {
    if (name == tensors::kInputIds) continue;
    const auto found = known.find(name);
    if (found == known.end()) {
      throw Error(AR_BACKEND_ERROR, "the decode graph wants what the prefill graph does not give",
                  {quoted(name), "", "", ""});
    }
    inputs_.insert(*found);
    // In place: each cache is output where it was input.
    if (const auto output = cache_output(name)) outputs_[*output] = found->second;
  }
}

std::vector<float> Cache::advance(const std::vector<int64_t>& ids) {
  const auto count = static_cast<int64_t>(ids.size());
  if (count < 1 || count > clocks_.free_slots) {
    throw Error(AR_INPUT_INVALID, "the cache has no such free slots",
                {"ids", std::to_string(count), "1 to " + std::to_string(clocks_.free_slots) + " tokens", ""});
  }
  if (tied_ != count) tie(count);
  std::memcpy(ids_->values(), ids.data(), ids.size() * sizeof(int64_t));
  step_->run();
  clocks_.position += count;
  clocks_.slot += count;
  clocks_.free_slots -= count;
  set(*position_, clocks_.position);
  set(*slot_, clocks_.slot);
  const auto* first = static_cast<const float*>(logits_->data());
  return {first, first + count * vocabulary_};
}

void Cache::tie(int64_t count) {
  tied_ = 0;
  const std::vector<int64_t> no_ids(static_cast<std::size_t>(count));
  const std::vector<float> no_logits(static_cast<std::size_t>(count * vocabulary_));
  ids_ = decode_->cell({Kind::kInt64, {1, count}, no_ids.data()});
  logits_ = decode_->cell({Kind::kFloat32, {1, count, vocabulary_}, no_logits.data()});
  Tensors inputs = inputs_, outputs = outputs_;
  inputs[tensors::kInputIds] = ids_;
  outputs[tensors::kLogits] = logits_;
  step_ = decode_->bind(inputs, outputs);
  tied_ = count;
}

}  // namespace ar
