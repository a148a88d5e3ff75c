// Sessions on plans, against a GPU and plans that are made up: what is shown is which profile is taken, what is copied
// when, and what is launched; not that TensorRT computes it.
#include "engines/tensorrt/session.hpp"

#include <gtest/gtest.h>

#include <thread>

#include "runtime/cache.hpp"
#include "toy_plans.hpp"
#include "runtime/world.hpp"

namespace ar {
namespace {

namespace t = tensors;

// Another backend's tensor.
class Elsewhere final : public Tensor {
 public:
  Elsewhere(Kind kind, Shape shape)
      : kind_(kind),
        shape_(std::move(shape)),
        memory_(std::accumulate(shape_.begin(), shape_.end(), kind_bytes(kind),
                                [](std::size_t sum, int64_t size) { return sum * static_cast<std::size_t>(size); })) {}
  Kind kind() const override { return kind_; }
  Shape shape() const override { return shape_; }
  std::size_t bytes() const override { return memory_.size(); }
  const void* data() const override { return memory_.data(); }

 private:
  Kind kind_;
  Shape shape_;
  std::vector<unsigned char> memory_;
};

const Ties kTies = {{"cache_key_out.0", "cache_key.0"}};

class Plans : public ::testing::Test {
 protected:
  std::shared_ptr<TensorRtSession> open(test::Plan plan) {
    return std::make_shared<TensorRtSession>("toy.plan", std::make_unique<test::FakePlan>(std::move(plan), gpu_),
                                             std::make_shared<test::HostDevice>(gpu_));
  }
  std::shared_ptr<TensorRtSession> decoder(bool tries = true) {
    auto session = open(test::toy_decoder());
    if (tries) session->try_capture(kTies, log());
    gpu_->captures = gpu_->enqueued = 0;
    return session;
  }
  Log log() {
    return [this](Level level, const std::string& message) {
      log_.emplace_back(level == Level::kWarning ? "warning: " + message : message);
    };
  }
  // The message with which `work` fails as a backend does.
  static std::string refusal(const std::function<void()>& work) {
    std::string message;
    EXPECT_EQ(test::status_of(work, &message), AR_BACKEND_ERROR);
    return message;
  }

  std::shared_ptr<test::Gpu> gpu_ = std::make_shared<test::Gpu>();
  std::vector<std::string> log_;
};

// The decoder tied to memory for so many new tokens, and its cells.
struct Step {
  Step(const Session& session, int64_t count) : cache(session.slots("cache_key.0", 1, test::kCapacity)->first(1)) {
    const std::vector<int64_t> no_ids(static_cast<std::size_t>(count));
    const std::vector<float> no_logits(static_cast<std::size_t>(count * test::kWords));
    const int64_t zero = 0;
    ids = session.cell({Kind::kInt64, {1, count}, no_ids.data()});
    positions = session.cell({Kind::kInt64, {1, 1, count}, no_ids.data()});
    slot = session.cell({Kind::kInt64, {1}, &zero});
    logits = session.cell({Kind::kFloat32, {1, count, test::kWords}, no_logits.data()});
    const auto nothing = [&](Kind kind) { return session.cell({kind, {0}, nullptr}); };
    inputs = {{t::kInputIds, ids},
              {t::kPositionIds, positions},
              {t::kSlots, slot},
              {t::kKeptSlots, slot},
              {t::kImageEmbeds, session.zeros(t::kImageEmbeds, {0, -1})},
              {t::kImageIndex, nothing(Kind::kInt64)},
              {t::kImageOf, nothing(Kind::kInt64)},
              {t::kTokenScores, nothing(Kind::kFloat32)},
              {t::kKeepCounts, nothing(Kind::kInt64)},
              {t::kLogitsToKeep, session.cell({Kind::kInt64, {1}, &count})},
              {"cache_key.0", cache}};
    bound = session.bind(inputs, {{t::kLogits, logits}, {"cache_key_out.0", cache}});
  }
  // Returns the best token after `id`, which stands at `at`.
  int64_t run(int64_t id, int64_t at) {
    std::memcpy(ids->values(), &id, sizeof id);
    std::memcpy(positions->values(), &at, sizeof at);
    std::memcpy(slot->values(), &at, sizeof at);
    bound->run();
    const auto* first = static_cast<const float*>(logits->data());
    return std::max_element(first, first + test::kWords) - first;
  }
  TensorPtr cache;
  std::shared_ptr<Cell> ids, positions, slot, logits;
  Tensors inputs;
  std::unique_ptr<Bound> bound;
};

// What lies on the toy's GPU, which is the host's memory.
std::vector<float> rows_of(const TensorPtr& cache, std::size_t count) {
  const auto* first = static_cast<const float*>(dynamic_cast<const DeviceTensor&>(*cache).address());
  return {first, first + count};
}

// A prompt of four image tokens, two of which stay, behind one token and before two.
struct Prompt {
  std::vector<int64_t> ids = {1, 9, 9, 9, 9, 2, 3}, positions = {0, 1, 2, 3, 4, 5, 6}, index = {1, 2, 3, 4};
  std::vector<int64_t> of = {0, 0, 0, 0}, counts = {2}, one = {1};
  std::vector<float> scores = {0, 3, 1, 2};

  Feeds feeds(const TensorPtr& image_embeds) const {
    const auto numbers = [](const Shape& shape, const std::vector<int64_t>& values) {
      return Array{Kind::kInt64, shape, values.data()};
    };
    return {{t::kInputIds, numbers({1, 7}, ids)},      {t::kPositionIds, numbers({1, 1, 7}, positions)},
            {t::kImageIndex, numbers({4}, index)},     {t::kImageOf, numbers({4}, of)},
            {t::kKeepCounts, numbers({1}, counts)},    {t::kLogitsToKeep, numbers({1}, one)},
            {t::kImageEmbeds, image_embeds},           {t::kTokenScores, Array{Kind::kFloat32, {4}, scores.data()}}};
  }
};

TEST_F(Plans, ARunGivesWhatIsReadHereAndLeavesTheRestThere) {
  const auto vision = open(test::toy_vision());
  const TensorPtr tiles = std::make_shared<Elsewhere>(Kind::kUint8, Shape{1, 4, 4, 3});  // it is copied
  for (const bool here : {false, true}) {
    const std::vector<std::string> read = {here ? t::kImageEmbeds : "not there"};
    const TensorPtr image_embeds = vision->run({{t::kTiles, tiles}}, read).at(t::kImageEmbeds);
    EXPECT_EQ(image_embeds->kind(), Kind::kFloat16);
    EXPECT_EQ(image_embeds->shape(), (Shape{4, 2}));
    EXPECT_EQ(image_embeds->bytes(), 16u);
    ASSERT_EQ(image_embeds->data() != nullptr, here);
    if (!here) continue;
    EXPECT_EQ(*static_cast<const uint16_t*>(image_embeds->data()), 0x3c00);
  }
}

TEST_F(Plans, NumbersBecomeLengthsAndWhatIsTiedToNothingIsReadHere) {
  const auto session = decoder();
  const std::vector<std::string>& inputs = session->inputs();
  EXPECT_EQ(std::count(inputs.begin(), inputs.end(), kTokensToKeep), 0);
  EXPECT_EQ(inputs.size(), 11u);
  Step step(*session, 3);  // its cells have three rows' logits
  EXPECT_EQ(step.bound->run().at(t::kKeepIndices)->shape(), Shape{0});
  const TensorPtr image_embeds = session->zeros(t::kImageEmbeds, {4, -1});
  EXPECT_EQ(image_embeds->shape(), (Shape{4, 2}));
  Pool pool(session, {}, {1, 7 + 8, 5 + 8}, test::kWords);
  const Tensors found = pool.prefill(Prompt().feeds(image_embeds), {7, 7, 5, 8});
  ASSERT_EQ(found.at(t::kKeepIndices)->shape(), Shape{2});
  EXPECT_EQ(static_cast<const int64_t*>(found.at(t::kKeepIndices)->data())[1], 2);
  ASSERT_EQ(found.at(t::kLogits)->shape(), (Shape{1, 1, test::kWords}));
  EXPECT_EQ(static_cast<const float*>(found.at(t::kLogits)->data())[3 + 6], 5.0f);
  EXPECT_EQ(found.count("cache_key_out.0"), 0u);
}

TEST_F(Plans, ANumberThatIsNotHereIsRefused) {
  const auto session = decoder();
  Step step(*session, 1);
  Tensors inputs = step.inputs;
  const TensorPtr there = session->zeros(t::kLogitsToKeep, {1});  // on the GPU alone
  inputs[t::kLogitsToKeep] = there;
  const std::string said = refusal([&] { session->bind(inputs, {}); });
  EXPECT_NE(said.find("no number in the host's memory; where: toy.plan, logits_to_keep"), std::string::npos) << said;
}

TEST_F(Plans, OneSequenceAndNoMoreRowsThanThePlanHas) {
  const auto session = decoder();
  const auto slots = session->slots("cache_key.0", 1, test::kCapacity);
  EXPECT_EQ(slots->first(1), slots->row(0));
  EXPECT_EQ(slots->row(0)->shape(), (Shape{1, 1, test::kCapacity, 1}));
  EXPECT_EQ(rows_of(slots->row(0), test::kCapacity), std::vector<float>(test::kCapacity));
  std::string said = refusal([&] { session->slots("cache_key.0", 1, test::kCapacity + 1); });
  EXPECT_NE(said.find("longer than the caches of this plan; where: toy.plan, cache_key.0; got: 33; wanted: up to 32"),
            std::string::npos)
      << said;
  EXPECT_EQ(test::status_of([&] { session->slots("cache_key.0", 2, 1); }, &said), AR_ENGINE_UNAVAILABLE);
  EXPECT_NE(said.find("a plan holds one sequence; where: toy.plan; got: 2; wanted: 1"), std::string::npos) << said;
}

TEST_F(Plans, ABindingIsDoneOnceThenCapturedThenLaunched) {
  const auto session = decoder();
  Step step(*session, 1);
  for (int64_t at = 0; at < 5; ++at) EXPECT_EQ(step.run(3, at), (3 + at) % test::kWords);
  EXPECT_EQ(gpu_->captures, 1);
  EXPECT_EQ(gpu_->launches, 4);
  EXPECT_EQ(gpu_->enqueued, 2);  // the first run, and what was captured
  EXPECT_EQ(rows_of(step.cache, 6), (std::vector<float>{3, 3, 3, 3, 3, 0}));
  EXPECT_TRUE(log_.empty());
}

TEST_F(Plans, WhatCannotBeCapturedIsSaidOnceAndDoneWithout) {
  gpu_->refuses_capture = true;
  const auto session = decoder();
  ASSERT_EQ(log_.size(), 1u);
  EXPECT_EQ(log_[0].rfind("warning: new tokens are enqueued one by one", 0), 0u) << log_[0];
  EXPECT_NE(log_[0].find("not permitted"), std::string::npos) << log_[0];
  Step step(*session, 1);
  for (int64_t at = 0; at < 4; ++at) EXPECT_EQ(step.run(2, at), 2 + at);
  EXPECT_EQ(gpu_->launches, 0);
  EXPECT_EQ(gpu_->enqueued, 4);
  EXPECT_EQ(log_.size(), 1u);
}

TEST_F(Plans, NothingIsCapturedThatWasNotTried) {
  Step untried(*decoder(false), 1);
  const auto session = decoder();
  Step wide(*session, 3);
  for (int64_t at = 0; at < 3; ++at) {
    untried.run(1, at);
    wide.run(1, at);
  }
  EXPECT_EQ(gpu_->captures, 0);
  EXPECT_EQ(gpu_->enqueued, 6);
}

TEST_F(Plans, TheFirstProfileInWhichAllLiesIsTaken) {
  test::Plan plan = test::toy_decoder();
  plan.profiles[0] = test::decoder_profile({3, 3, 0, 0, 0});
  plan.profiles[0][t::kInputIds].low = {1, 2};
  plan.profiles[0][t::kPositionIds].low = {1, 1, 2};
  const auto session = open(std::move(plan));
  session->try_capture(kTies, log());
  for (int64_t count = 1; count <= 4; ++count) {
    gpu_->captures = 0;
    Step step(*session, count);
    step.run(1, 0);
    step.run(1, 1);
    EXPECT_EQ(gpu_->captures, count == 2 || count == 3 ? 1 : 0) << count;
  }
}

TEST_F(Plans, ASizeOutsideAllProfilesIsRefused) {
  const auto session = decoder();
  const std::string said = refusal([&] { Step(*session, 9); });
  EXPECT_NE(said.find("not built for this size; where: toy.plan, logits_to_keep; got: [9]; wanted: [1] to [1]"),
            std::string::npos)
      << said;
  const auto vision = open(test::toy_vision());
  for (const Shape& shape : {Shape{1, 4, 4}, Shape{1, 4, 4, 3, 1}, Shape{1, 4, 5, 3}, Shape{1, 4, 0, 3}, Shape{}}) {
    const TensorPtr tiles = std::make_shared<Elsewhere>(Kind::kUint8, shape);
    const std::string message = refusal([&] { vision->run({{t::kTiles, tiles}}, {}); });
    EXPECT_NE(message.find("wanted: [1, 4, 4, 3] to [1, 4, 4, 3]"), std::string::npos) << message;
  }
}

TEST_F(Plans, AnotherTypeIsRefused) {
  const auto session = decoder();
  Tensors inputs = Step(*session, 1).inputs;
  inputs[t::kImageEmbeds] = std::make_shared<Elsewhere>(Kind::kFloat32, Shape{0, 2});
  const std::string said = refusal([&] { session->bind(inputs, {}); });
  EXPECT_NE(said.find("not the type of a plan; where: toy.plan, image_embeds; got: float32; wanted: float16"),
            std::string::npos)
      << said;
  EXPECT_NE(refusal([&] { session->bind({{"strange", inputs[t::kSlots]}}, {}); }).find("strange"), std::string::npos);
  EXPECT_NE(refusal([&] { session->zeros("strange", {}); }).find("strange"), std::string::npos);
}

TEST_F(Plans, OutputsAreBoundToMemoryThatFits) {
  const auto session = decoder();
  const Step good(*session, 1);
  const std::vector<float> values(64);
  const std::vector<TensorPtr> bad = {session->cell({Kind::kFloat32, {1, 2, test::kWords}, values.data()}),
                                      session->cell({Kind::kInt64, {1, 1, 2}, values.data()}),
                                      std::make_shared<Elsewhere>(Kind::kFloat32, Shape{1, 1, test::kWords})};
  for (const TensorPtr& tensor : bad) {
    const std::string said =
        refusal([&] { session->bind(good.inputs, {{t::kLogits, tensor}, {"cache_key_out.0", good.cache}}); });
    EXPECT_NE(said.find("toy.plan, logits"), std::string::npos) << said;
    EXPECT_NE(said.find("wanted: [1, 1, 11] float32"), std::string::npos) << said;
  }
}

TEST_F(Plans, ATypeThatIsNotKnownIsRefusedWhenThePlanIsOpened) {
  test::Plan plan = test::toy_vision();
  plan.ports[1].kind = Kind::kOther;
  EXPECT_NE(refusal([&] { open(plan); }).find("toy.plan, image_embeds"), std::string::npos);
  test::Plan none = test::toy_vision();
  none.profiles.clear();
  const auto session = open(none);
  EXPECT_NE(refusal([&] { session->run({}, {}); }).find("no profile"), std::string::npos);
}

TEST_F(Plans, NothingIsLeftBehind) {
  {
    auto session = decoder();
    Step step(*session, 1);
    for (int64_t at = 0; at < 3; ++at) step.run(1, at);
    EXPECT_GT(gpu_->blocks, 0);
    session.reset();
    EXPECT_EQ(step.run(1, 3), 4);  // a binding holds on to all that it needs
  }
  EXPECT_EQ(gpu_->blocks, 0);
}

TEST_F(Plans, ManyThreadsRunAndBindAtOnce) {
  const auto session = decoder();
  const auto vision = open(test::toy_vision());
  const TensorPtr tiles = std::make_shared<Elsewhere>(Kind::kUint8, Shape{1, 4, 4, 3});
  const auto work = [&](int64_t id) {
    const Prompt prompt;
    for (int64_t round = 0; round < 10; ++round) {
      const TensorPtr image_embeds = vision->run({{t::kTiles, tiles}}, {}).at(t::kImageEmbeds);
      Pool pool(session, {}, {1, 7 + 8, 5 + 8}, test::kWords);
      pool.prefill(prompt.feeds(image_embeds), {7, 7, 5, 8});
      for (int64_t at = 7; at < 11; ++at) {
        const std::vector<float> logits = pool.advance({{id}});
        EXPECT_EQ(std::max_element(logits.begin(), logits.end()) - logits.begin(), (id + at) % test::kWords);
      }
    }
  };
  std::vector<std::thread> threads;
  for (int64_t id = 0; id < 6; ++id) threads.emplace_back(work, id);
  for (std::thread& thread : threads) thread.join();
}

TEST_F(Plans, APoolOnAPlanGrowsInPlace) {
  const auto session = decoder();
  Pool pool(session, {}, {1, 7 + 8, 5 + 8}, test::kWords);
  EXPECT_EQ(test::status_of([&] { pool.advance({{1}}); }), AR_INPUT_INVALID);
  for (int round = 0; round < 2; ++round) {  // a slot is taken again
    pool.prefill(Prompt().feeds(session->zeros(t::kImageEmbeds, {4, -1})), {7, 7, 5, 8});
    int64_t position = 7;
    for (const std::vector<int64_t>& ids : std::vector<std::vector<int64_t>>{{3}, {5}, {6}, {1, 2, 3}, {4}}) {
      const std::vector<float> logits = pool.advance({ids});
      ASSERT_EQ(logits.size(), ids.size() * test::kWords);
      for (std::size_t index = 0; index < ids.size(); ++index, ++position) {
        const auto best = static_cast<std::size_t>((ids[index] + position) % test::kWords);
        EXPECT_EQ(logits[index * test::kWords + best], 5.0f);
      }
    }
    EXPECT_EQ(pool.clocks().free_slots, 1);
  }
  EXPECT_EQ(gpu_->captures, 1);  // of the single new token's binding, which both rounds use
}

}  // namespace
}  // namespace ar
