// Sessions that compute a toy model, so that engines and requests are tested without a backend.
//
// The toy: vocabulary V, N image tokens, M layers, one cache. Prefill answers the sum of all prompt ids modulo V;
// decode answers (token + position) modulo V, and writes down what it saw.
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

inline constexpr int64_t kVocabulary = 11, kImageEmbeds = 4, kLayers = 3, kKept = 2;

inline std::size_t bytes_of(Kind kind) { return kind == Kind::kInt64 ? 8 : kind == Kind::kFloat32 ? 4 : 1; }

class FakeTensor final : public Cell {
 public:
  explicit FakeTensor(const Array& array) : kind_(array.kind), shape_(array.shape) {
    const auto count =
        static_cast<std::size_t>(std::accumulate(shape_.begin(), shape_.end(), int64_t{1}, std::multiplies<>()));
    memory_.resize(count * bytes_of(kind_));
    if (array.data != nullptr) std::memcpy(memory_.data(), array.data, memory_.size());
  }
  Kind kind() const override { return kind_; }
  std::vector<int64_t> shape() const override { return shape_; }
  std::size_t bytes() const override { return memory_.size(); }
  const void* data() const override { return memory_.data(); }
  void* values() override { return memory_.data(); }

 private:
  Kind kind_;
  std::vector<int64_t> shape_;
  std::vector<unsigned char> memory_;
};

inline std::shared_ptr<FakeTensor> tensor(Kind kind, std::vector<int64_t> shape, const void* data = nullptr) {
  return std::make_shared<FakeTensor>(Array{kind, std::move(shape), data});
}

// Returns logits whose best token is `best`.
inline std::vector<float> logits_for(int64_t best) {
  std::vector<float> logits(static_cast<std::size_t>(kVocabulary));
  logits[static_cast<std::size_t>(best % kVocabulary)] = 5;
  return logits;
}

inline std::vector<int64_t> ids_of(const Feed& feed) {
  const Array& array = std::get<Array>(feed);
  const auto* first = static_cast<const int64_t*>(array.data);
  return {first, first + array.shape.back()};
}

template <class T>
T value(const Tensors& tensors, const char* name) {
  return *static_cast<const T*>(tensors.at(name)->data());
}

struct Seen {  // by one run of the decode graph
  int64_t id, position, slot;
};

class FakeSession final : public Session {
 public:
  using Compute = std::function<Tensors(const Feeds&)>;
  using Step = std::function<void(const Tensors& inputs, const Tensors& outputs)>;
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
  std::shared_ptr<Cell> cell(const Array& values) const override { return std::make_shared<FakeTensor>(values); }

  mutable int binds = 0;

 private:
  class FakeBound final : public Bound {
   public:
    FakeBound(Step step, Tensors inputs, Tensors outputs)
        : step_(std::move(step)), inputs_(std::move(inputs)), outputs_(std::move(outputs)) {}
    void run() override { step_(inputs_, outputs_); }

   private:
    Step step_;
    Tensors inputs_, outputs_;
  };

  std::vector<std::string> inputs_, outputs_;
  Compute compute_;
  Step step_;
};

inline Tensors prefilled(const Feeds& feeds) {
  const std::vector<int64_t> prefix = ids_of(feeds.at(t::kPrefixIds)), suffix = ids_of(feeds.at(t::kSuffixIds));
  const int64_t sum = std::accumulate(prefix.begin(), prefix.end(), int64_t{0}) +
                      std::accumulate(suffix.begin(), suffix.end(), int64_t{0});
  const std::vector<float> logits = logits_for(sum);
  const std::vector<int64_t> keep = {1, 3};
  const std::vector<uint8_t> mask = {1, 0, 1};
  return {{t::kLogits, tensor(Kind::kFloat32, {1, kVocabulary}, logits.data())},
          {t::kKeep, tensor(Kind::kInt64, {1, kKept}, keep.data())},
          {t::kLayerMask, tensor(Kind::kBool, {kLayers}, mask.data())},
          {"cache_key.0", tensor(Kind::kFloat32, {1, 1, 8, 2})}};
}

// Writes the logits of each new token; `seen` takes what the step was given.
inline FakeSession::Step decoding(std::vector<Seen>* seen) {
  return [seen](const Tensors& inputs, const Tensors& outputs) {
    const Tensor& ids = *inputs.at(t::kInputIds);
    const auto position = value<int64_t>(inputs, t::kPositions);
    if (seen != nullptr) {
      seen->push_back({value<int64_t>(inputs, t::kInputIds), position, value<int64_t>(inputs, t::kSlots)});
    }
    auto* into = static_cast<float*>(const_cast<void*>(outputs.at(t::kLogits)->data()));
    for (int64_t index = 0; index < ids.shape().back(); ++index) {
      const std::vector<float> logits = logits_for(static_cast<const int64_t*>(ids.data())[index] + position + index);
      std::copy(logits.begin(), logits.end(), into + index * kVocabulary);
    }
  };
}

inline std::shared_ptr<FakeSession> fake_decode(std::vector<Seen>* seen = nullptr) {
  return std::make_shared<FakeSession>(
      std::vector<std::string>{t::kInputIds, t::kPositions, t::kSlots, t::kLayerMask, "cache_key.0"},
      std::vector<std::string>{t::kLogits, "cache_key_out.0"}, FakeSession::Compute{}, decoding(seen));
}

inline Entry fake_entry() {
  Entry entry;
  entry.pruning.version = "t2-l2";
  entry.backend = kOnnxRuntime;
  entry.precision = "fp32";
  entry.pruning.layer_policy = "dynamic";
  entry.pruning.keep = kKept;
  entry.pruning.layers = 2;
  return entry;
}

inline EngineFacts fake_facts() {
  EngineFacts facts;
  facts.model.image_tokens = kImageEmbeds;
  facts.model.layers = kLayers;
  facts.model.vocabulary = kVocabulary;
  facts.model.stop_ids = {0};
  facts.limits = {16, 8};
  return facts;
}

inline Sessions fake_sessions(std::vector<Seen>* seen = nullptr) {
  const auto gives = [](Tensors tensors) { return [tensors](const Feeds&) { return tensors; }; };
  const std::vector<float> token_scores = {0, 3, 1, 2}, layer_scores = {2, 0, 1};
  Sessions sessions;
  sessions.preprocess =
      std::make_shared<FakeSession>(std::vector<std::string>{t::kImage}, std::vector<std::string>{t::kPixelValues},
                                    gives({{t::kPixelValues, tensor(Kind::kFloat32, {1, 3, 4, 4})}}));
  sessions.vision =
      std::make_shared<FakeSession>(std::vector<std::string>{t::kPixelValues}, std::vector<std::string>{t::kImageEmbeds},
                                    gives({{t::kImageEmbeds, tensor(Kind::kFloat32, {1, kImageEmbeds, 2})}}));
  sessions.router = std::make_shared<FakeSession>(
      std::vector<std::string>{t::kPrefixIds, t::kImageEmbeds, t::kSuffixIds, t::kSuffixLengths},
      std::vector<std::string>{t::kTokenScores, t::kLayerScores},
      gives({{t::kTokenScores, tensor(Kind::kFloat32, {1, kImageEmbeds}, token_scores.data())},
             {t::kLayerScores, tensor(Kind::kFloat32, {1, kLayers}, layer_scores.data())}}));
  sessions.prefill = std::make_shared<FakeSession>(
      std::vector<std::string>{t::kPrefixIds, t::kImageEmbeds, t::kSuffixIds, t::kFreeSlots, t::kTokenScores, t::kLayerScores},
      std::vector<std::string>{t::kLogits, t::kKeep, t::kLayerMask, "cache_key.0"}, prefilled);
  sessions.decode = fake_decode(seen);
  return sessions;
}

inline Engine fake_engine(std::vector<Seen>* seen = nullptr) {
  return {fake_entry(), fake_facts(), fake_sessions(seen)};
}

}  // namespace ar::test
