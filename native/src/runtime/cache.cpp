#include "runtime/cache.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "contract/error.hpp"
#include "contract/tensors.hpp"

namespace ar {
namespace {

namespace t = tensors;

template <class T>
void set(Cell& cell, const std::vector<T>& values) {
  std::memcpy(cell.values(), values.data(), values.size() * sizeof(T));
}

// What a decoder is given of images where there are none.
Tensors no_images(const Session& decoder) {
  Tensors none = {{t::kImageEmbeds, decoder.zeros(t::kImageEmbeds, {0, -1})}};
  for (const char* name : {t::kImageIndex, t::kImageOf, t::kKeepCounts}) {
    none[name] = decoder.cell({Kind::kInt64, {0}, nullptr});
  }
  none[t::kTokenScores] = decoder.cell({Kind::kFloat32, {0}, nullptr});
  return none;
}

// Ties the decoder to memory; in place: each cache is output where it is input.
std::unique_ptr<Bound> bind(const Session& decoder, const Tensors& given, Tensors outputs) {
  Tensors inputs;
  for (const std::string& name : decoder.inputs()) {
    const auto found = given.find(name);
    if (found == given.end()) {
      throw Error(AR_BACKEND_ERROR, "the decoder graph wants what this runtime does not know",
                  {"", quoted(name), "", ""});
    }
    inputs.insert(*found);
    if (const auto output = t::cache_output(name)) outputs[*output] = found->second;
  }
  return decoder.bind(inputs, outputs);
}

}  // namespace

struct Pool::Step {
  std::shared_ptr<Cell> ids, positions, slots, kept_slots, logits;
  std::unique_ptr<Bound> bound;
};

Pool::Pool(std::shared_ptr<const Session> decoder, const Pruning& pruning, const PoolShape& shape, int64_t vocabulary,
           const std::vector<uint8_t>& layer_mask)
    : decoder_(std::move(decoder)), vocabulary_(vocabulary), clocks_(static_cast<std::size_t>(shape.sequences)) {
  for (const std::string& name : decoder_->inputs()) {
    const std::optional<int64_t> layer = t::cache_layer(name);
    if (!layer) continue;
    const bool gathered = !pruning.keep.everything() && *layer >= pruning.prune_layer;
    const auto index = static_cast<std::size_t>(*layer);
    const bool kept = layer_mask.empty() || (index < layer_mask.size() && layer_mask[index] != 0);
    const int64_t rows = gathered ? shape.kept_rows : shape.rows;
    caches_[name] = decoder_->slots(name, shape.sequences, kept ? rows : 0);
  }
  if (layer_mask.empty()) return;
  mask_[t::kLayerMask] = decoder_->cell({Kind::kBool, {static_cast<int64_t>(layer_mask.size())}, layer_mask.data()});
}

Pool::~Pool() = default;
Pool::Pool(Pool&&) noexcept = default;

Tensors Pool::prefill(const Feeds& feeds, const Clocks& clocks, int64_t slot) {
  const int64_t first = 0;
  Tensors given = mask_;
  for (const char* name : {t::kSlots, t::kKeptSlots}) given[name] = decoder_->cell({Kind::kInt64, {1}, &first});
  for (const auto& [name, feed] : feeds) {
    const auto* const tensor = std::get_if<TensorPtr>(&feed);
    given[name] = tensor != nullptr ? *tensor : decoder_->cell(std::get<Array>(feed));
  }
  for (const auto& [name, slots] : caches_) given[name] = slots->row(slot);
  Tensors outputs = bind(*decoder_, given, {})->run();
  clocks_.at(static_cast<std::size_t>(slot)) = clocks;
  return outputs;
}

std::vector<float> Pool::advance(const std::vector<std::vector<int64_t>>& ids) {
  const std::size_t count = ids.empty() ? 0 : ids.front().size();
  int64_t free = std::numeric_limits<int64_t>::max();
  std::vector<int64_t> all, positions, slots, kept_slots;
  for (std::size_t slot = 0; slot < ids.size(); ++slot) {
    const Clocks& now = clocks(static_cast<int64_t>(slot));
    free = std::min(free, now.free_slots);
    all.insert(all.end(), ids[slot].begin(), ids[slot].end());
    for (std::size_t next = 0; next < count; ++next) positions.push_back(now.position + static_cast<int64_t>(next));
    slots.push_back(now.slot);
    kept_slots.push_back(now.kept_slot);
  }
  const auto tokens = static_cast<int64_t>(count);
  if (tokens < 1 || tokens > free || all.size() != positions.size()) {
    throw Error(AR_INPUT_INVALID, "the cache has no such free slots",
                {"ids", std::to_string(tokens), "1 to " + std::to_string(free) + " tokens, as many for each", ""});
  }
  Step& step = tie(static_cast<int64_t>(ids.size()), tokens);
  set(*step.ids, all);
  set(*step.positions, positions);
  set(*step.slots, slots);
  set(*step.kept_slots, kept_slots);
  step.bound->run();
  for (std::size_t slot = 0; slot < ids.size(); ++slot) {
    Clocks& now = *clocks_[slot];
    now = {now.position + tokens, now.slot + tokens, now.kept_slot + tokens, now.free_slots - tokens};
  }
  const auto* first = static_cast<const float*>(step.logits->data());
  return {first, first + all.size() * static_cast<std::size_t>(vocabulary_)};
}

void Pool::move(int64_t from, int64_t to) {
  if (from == to) return;
  const Clocks moved = clocks(from);
  for (const auto& [name, slots] : caches_) slots->move(from, to);
  clocks_.at(static_cast<std::size_t>(to)) = moved;
  clocks_[static_cast<std::size_t>(from)].reset();
}

const Clocks& Pool::clocks(int64_t slot) const {
  const std::optional<Clocks>& found = clocks_.at(static_cast<std::size_t>(slot));
  if (found) return *found;
  throw Error(AR_INPUT_INVALID, "the slot holds no sequence", {"", std::to_string(slot), "", "prefill it first"});
}

Pool::Step& Pool::tie(int64_t sequences, int64_t count) {
  std::shared_ptr<Step>& known = steps_[{sequences, count}];
  if (known) return *known;
  const auto zeros = [this](Kind kind, const Shape& shape) {
    std::size_t bytes = kind_bytes(kind);
    for (const int64_t extent : shape) bytes *= static_cast<std::size_t>(extent);
    const std::vector<unsigned char> nothing(bytes);
    return decoder_->cell({kind, shape, nothing.data()});
  };
  auto step = std::make_shared<Step>();
  step->ids = zeros(Kind::kInt64, {sequences, count});
  step->positions = zeros(Kind::kInt64, {1, sequences, count});
  step->slots = zeros(Kind::kInt64, {sequences});
  step->kept_slots = zeros(Kind::kInt64, {sequences});
  step->logits = zeros(Kind::kFloat32, {sequences, count, vocabulary_});
  Tensors given = no_images(*decoder_);
  given.insert(mask_.begin(), mask_.end());
  given[t::kLogitsToKeep] = decoder_->cell({Kind::kInt64, {1}, &count});
  given[t::kInputIds] = step->ids;
  given[t::kPositionIds] = step->positions;
  given[t::kSlots] = step->slots;
  given[t::kKeptSlots] = step->kept_slots;
  for (const auto& [name, slots] : caches_) given[name] = slots->first(sequences);
  step->bound = bind(*decoder_, given, {{t::kLogits, step->logits}});
  known = std::move(step);
  return *known;
}

}  // namespace ar
