// Sessions that compute a toy model, so that engines and requests are tested without a backend.
//
// The toy: vocabulary V, 4 image tokens an image, M layers, one cache. A prompt's best next token is the sum of its ids
// modulo V, and its cache keeps its first id; a further token's is (token + position + what the cache keeps) modulo V.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "contract/tensors.hpp"
#include "runtime/engine.hpp"

namespace ar {
namespace t = tensors;  // in tests alone
}

namespace ar::test {

inline constexpr int64_t kVocabulary = 11, kImageTokens = 4, kLayers = 3, kKept = 2, kPlaceholder = 100;

inline std::size_t count_of(const Shape& shape) {
  return static_cast<std::size_t>(std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>()));
}

// A tensor in memory that it may share.
class FakeTensor final : public Cell {
 public:
  using Memory = std::shared_ptr<std::vector<unsigned char>>;
  FakeTensor(Kind kind, Shape shape, Memory memory, std::size_t offset = 0)
      : kind_(kind), shape_(std::move(shape)), memory_(std::move(memory)), offset_(offset) {}
  Kind kind() const override { return kind_; }
  Shape shape() const override { return shape_; }
  std::size_t bytes() const override { return count_of(shape_) * kind_bytes(kind_); }
  const void* data() const override { return memory_->data() + offset_; }
  void* values() override { return memory_->data() + offset_; }

 private:
  Kind kind_;
  Shape shape_;
  Memory memory_;
  std::size_t offset_;
};

inline std::shared_ptr<FakeTensor> tensor(Kind kind, const Shape& shape, const void* data = nullptr) {
  auto memory = std::make_shared<std::vector<unsigned char>>(count_of(shape) * kind_bytes(kind));
  if (data != nullptr && !memory->empty()) std::memcpy(memory->data(), data, memory->size());
  return std::make_shared<FakeTensor>(kind, shape, std::move(memory));
}

class FakeSlots final : public Slots {
 public:
  FakeSlots(int64_t sequences, int64_t rows)
      : shape_{sequences, 1, rows, 1},
        memory_(std::make_shared<std::vector<unsigned char>>(count_of(shape_) * sizeof(float))) {}
  TensorPtr first(int64_t sequences) const override { return part(0, sequences); }
  TensorPtr row(int64_t slot) const override { return part(slot, 1); }
  void move(int64_t from, int64_t to) override {
    const std::size_t row = memory_->size() / static_cast<std::size_t>(shape_.front());
    std::memcpy(memory_->data() + static_cast<std::size_t>(to) * row,
                memory_->data() + static_cast<std::size_t>(from) * row, row);
  }

 private:
  TensorPtr part(int64_t slot, int64_t sequences) const {
    const std::size_t row = memory_->size() / static_cast<std::size_t>(shape_.front());
    return std::make_shared<FakeTensor>(Kind::kFloat32, Shape{sequences, 1, shape_[2], 1}, memory_,
                                        static_cast<std::size_t>(slot) * row);
  }

  Shape shape_;
  FakeTensor::Memory memory_;
};

// Returns logits whose best token is `best`.
inline std::vector<float> logits_for(int64_t best) {
  std::vector<float> logits(static_cast<std::size_t>(kVocabulary));
  logits[static_cast<std::size_t>(best % kVocabulary)] = 5;
  return logits;
}

template <class T>
std::vector<T> values(const Tensors& tensors, const std::string& name) {
  const Tensor& found = *tensors.at(name);
  const auto* first = static_cast<const T*>(found.data());
  return {first, first + count_of(found.shape())};
}

struct Seen {  // by one sequence in one run of the decoder for new tokens
  int64_t id, position, slot, kept_slot;
};

class FakeSession final : public Session {
 public:
  using Compute = std::function<Tensors(const Feeds&)>;
  using Step = std::function<Tensors(const Tensors& inputs, const Tensors& outputs)>;  // gives what is not tied
  FakeSession(std::vector<std::string> inputs, std::vector<std::string> outputs, Compute compute, Step step = {})
      : inputs_(std::move(inputs)),
        outputs_(std::move(outputs)),
        compute_(std::move(compute)),
        step_(std::move(step)) {}
  const std::vector<std::string>& inputs() const override { return inputs_; }
  const std::vector<std::string>& outputs() const override { return outputs_; }
  Tensors run(const Feeds& feeds, const std::vector<std::string>&) const override { return compute_(feeds); }
  std::unique_ptr<Bound> bind(const Tensors& inputs, const Tensors& outputs) const override {
    ++binds;
    return std::make_unique<FakeBound>(step_, inputs, outputs);
  }
  std::shared_ptr<Cell> cell(const Array& values) const override {
    return tensor(values.kind, values.shape, values.data);
  }
  TensorPtr zeros(const std::string&, const Shape& shape) const override {
    Shape whole = shape;
    for (int64_t& extent : whole) extent = extent < 0 ? 2 : extent;
    return tensor(Kind::kFloat32, whole);
  }
  std::unique_ptr<Slots> slots(const std::string& input, int64_t sequences, int64_t rows) const override {
    rows_of[input] = rows;
    return std::make_unique<FakeSlots>(sequences, rows);
  }

  mutable int binds = 0;
  mutable std::map<std::string, int64_t> rows_of;  // by cache, as they were asked for

 private:
  class FakeBound final : public Bound {
   public:
    FakeBound(Step step, Tensors inputs, Tensors outputs)
        : step_(std::move(step)), inputs_(std::move(inputs)), outputs_(std::move(outputs)) {}
    Tensors run() override { return step_(inputs_, outputs_); }

   private:
    Step step_;
    Tensors inputs_, outputs_;
  };

  std::vector<std::string> inputs_, outputs_;
  Compute compute_;
  Step step_;
};

inline float* cache_of(const Tensors& inputs) {
  return static_cast<float*>(const_cast<void*>(inputs.at("cache_key.0")->data()));
}

inline Tensors prompted(const Tensors& inputs) {
  const std::vector<int64_t> ids = values<int64_t>(inputs, t::kInputIds);
  cache_of(inputs)[0] = static_cast<float>(ids.front());
  const std::vector<float> logits = logits_for(std::accumulate(ids.begin(), ids.end(), int64_t{0}));
  const std::vector<int64_t> counts = values<int64_t>(inputs, t::kKeepCounts);
  std::vector<int64_t> keep;  // the last of each image
  for (std::size_t image = 0; image < counts.size(); ++image) {
    for (int64_t token = kImageTokens - counts[image]; token < kImageTokens; ++token) {
      keep.push_back(static_cast<int64_t>(image) * kImageTokens + token);
    }
  }
  return {{t::kLogits, tensor(Kind::kFloat32, {1, 1, kVocabulary}, logits.data())},
          {t::kKeepIndices, tensor(Kind::kInt64, {static_cast<int64_t>(keep.size())}, keep.data())}};
}

// Computes prompts and new tokens; `seen` takes what the latter were given.
inline FakeSession::Step decoding(std::vector<Seen>* seen) {
  return [seen](const Tensors& inputs, const Tensors& outputs) -> Tensors {
    if (outputs.count(t::kLogits) == 0) return prompted(inputs);
    const auto ids = values<int64_t>(inputs, t::kInputIds), positions = values<int64_t>(inputs, t::kPositionIds);
    const auto slots = values<int64_t>(inputs, t::kSlots), kept_slots = values<int64_t>(inputs, t::kKeptSlots);
    auto* into = static_cast<float*>(const_cast<void*>(outputs.at(t::kLogits)->data()));
    const std::size_t each = ids.size() / slots.size();
    const auto row = static_cast<std::size_t>(inputs.at("cache_key.0")->shape()[2]);
    for (std::size_t at = 0; at < ids.size(); ++at) {
      const auto held = static_cast<int64_t>(cache_of(inputs)[at / each * row]);
      const std::vector<float> logits = logits_for(ids[at] + positions[at] + held);
      std::copy(logits.begin(), logits.end(), into + at * logits.size());
    }
    for (std::size_t sequence = 0; seen != nullptr && sequence < slots.size(); ++sequence) {
      seen->push_back({ids[sequence * each], positions[sequence * each], slots[sequence], kept_slots[sequence]});
    }
    return {};
  };
}

inline std::shared_ptr<FakeSession> fake_decoder(std::vector<Seen>* seen = nullptr, bool dynamic = true) {
  std::vector<std::string> inputs = {t::kInputIds,   t::kImageEmbeds, t::kImageIndex, t::kPositionIds,  t::kSlots,
                                     t::kKeptSlots,  t::kImageOf,     t::kKeepCounts, t::kTokenScores,
                                     t::kLogitsToKeep, "cache_key.0"};
  if (dynamic) inputs.emplace_back(t::kLayerMask);
  return std::make_shared<FakeSession>(
      inputs, std::vector<std::string>{t::kLogits, t::kKeepIndices, "cache_key_out.0"}, FakeSession::Compute{},
      decoding(seen));
}

inline Entry fake_entry(bool dynamic = true) {
  Entry entry;
  entry.pruning.version = "t2-l2";
  entry.backend = kOnnxRuntime;
  entry.precision = "fp32";
  entry.pruning.keep = {kKept, 1};
  entry.pruning.layers = 2;
  entry.pruning.layer_policy = dynamic ? "dynamic" : "static";
  if (!dynamic) entry.pruning.kept_layers = {{0, 2}};
  return entry;
}

inline EngineFacts fake_facts() {
  EngineFacts facts;
  facts.model.images.size = 2;
  facts.model.images.tokens = kImageTokens;
  facts.model.image_token_id = kPlaceholder;
  facts.model.layers = kLayers;
  facts.model.vocabulary = kVocabulary;
  facts.model.max_positions = 40;
  facts.model.stop_ids = {9};
  facts.limits = {2, 2 * kImageTokens, 16, 8, 3};
  return facts;
}

inline Sessions fake_sessions(std::vector<Seen>* seen = nullptr, bool dynamic = true) {
  Sessions sessions;
  sessions.vision = std::make_shared<FakeSession>(
      std::vector<std::string>{t::kTiles}, std::vector<std::string>{t::kImageEmbeds},
      [](const Feeds& feeds) -> Tensors {
        const int64_t tiles = std::get<Array>(feeds.at(t::kTiles)).shape[0];
        return {{t::kImageEmbeds, tensor(Kind::kFloat32, {tiles * kImageTokens, 2})}};
      });
  sessions.router = std::make_shared<FakeSession>(
      std::vector<std::string>{t::kInputIds, t::kImageEmbeds, t::kImageIndex, t::kImageOf, t::kPositionIds},
      std::vector<std::string>{t::kTokenScores, t::kLayerScores}, [](const Feeds& feeds) -> Tensors {
        const std::vector<float> layer_scores = {2, 0, 1};
        const Shape tokens = std::get<Array>(feeds.at(t::kImageIndex)).shape;
        return {{t::kTokenScores, tensor(Kind::kFloat32, tokens)},
                {t::kLayerScores, tensor(Kind::kFloat32, {kLayers}, layer_scores.data())}};
      });
  sessions.decoder = fake_decoder(seen, dynamic);
  return sessions;
}

inline Engine fake_engine(std::vector<Seen>* seen = nullptr, bool dynamic = true) {
  return {fake_entry(dynamic), fake_facts(), fake_sessions(seen, dynamic)};
}

}  // namespace ar::test
