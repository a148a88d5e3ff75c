// Sessions on plans, against a GPU and plans that are made up: what is shown is which profile is taken, what is copied
// when, and what is launched; not that TensorRT computes it.
#include "runtime/tensorrt_session.hpp"

#include <gtest/gtest.h>

#include <thread>

#include "toy_plans.hpp"
#include "world.hpp"

namespace ar {
namespace {

const Ties kTies = {{"cache_key_out.0", "cache_key.0"}};

class Plans : public ::testing::Test {
 protected:
  std::shared_ptr<TensorRtSession> open(test::Plan plan) {
    return std::make_shared<TensorRtSession>("toy.plan", std::make_unique<test::FakePlan>(std::move(plan), gpu_),
                                             std::make_shared<test::HostDevice>(gpu_));
  }
  std::shared_ptr<TensorRtSession> decode(bool tries = true) {
    auto session = open(test::toy_decode());
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

// A decode graph tied to memory, and its cells.
struct Step {
  Step(const Session& session, int64_t count) {
    const std::vector<int64_t> no_ids(static_cast<std::size_t>(count));
    const std::vector<float> no_logits(static_cast<std::size_t>(count * test::kVocabulary)), no_cache(test::kCapacity);
    const int64_t zero = 0;
    ids = session.cell({Kind::kInt64, {1, count}, no_ids.data()});
    position = session.cell({Kind::kInt64, {1}, &zero});
    slot = session.cell({Kind::kInt64, {1}, &zero});
    logits = session.cell({Kind::kFloat32, {1, count, test::kVocabulary}, no_logits.data()});
    cache = session.cell({Kind::kFloat32, {1, test::kCapacity}, no_cache.data()});
    bound = session.bind(
        {{t::kInputIds, ids}, {t::kPositions, position}, {t::kSlots, slot}, {"cache_key.0", cache}},
        {{t::kLogits, logits}, {"cache_key_out.0", cache}});
  }
  // Returns the best token after `id`, which stands at `at`.
  int64_t run(int64_t id, int64_t at) {
    std::memcpy(ids->values(), &id, sizeof id);
    std::memcpy(position->values(), &at, sizeof at);
    std::memcpy(slot->values(), &at, sizeof at);
    bound->run();
    const auto* first = static_cast<const float*>(logits->data());
    return std::max_element(first, first + test::kVocabulary) - first;
  }
  std::shared_ptr<Cell> ids, position, slot, logits, cache;
  std::unique_ptr<Bound> bound;
};

TEST_F(Plans, ARunGivesWhatIsReadHereAndLeavesTheRestThere) {
  const auto vision = open(test::toy_vision());
  const auto prefill = open(test::toy_prefill());
  EXPECT_EQ(prefill->inputs(), (std::vector<std::string>{t::kPrefixIds, t::kSuffixIds, t::kImageEmbeds}));
  const auto pixels = test::tensor(Kind::kFloat32, {1, 3, 4, 4});  // another backend's tensor: it is copied
  const TensorPtr image_embeds = vision->run({{t::kPixelValues, TensorPtr(pixels)}}, {}).at(t::kImageEmbeds);
  EXPECT_EQ(image_embeds->kind(), Kind::kFloat16);
  EXPECT_EQ(image_embeds->shape(), (Shape{1, test::kImageEmbeds, 2}));
  EXPECT_EQ(image_embeds->bytes(), 2u * 2 * test::kImageEmbeds);
  EXPECT_EQ(image_embeds->data(), nullptr);
  const std::vector<int64_t> prefix = {1, 2}, suffix = {3};
  const Tensors outputs = prefill->run({{t::kPrefixIds, Array{Kind::kInt64, {1, 2}, prefix.data()}},
                                        {t::kSuffixIds, Array{Kind::kInt64, {1, 1}, suffix.data()}},
                                        {t::kImageEmbeds, image_embeds}},
                                       {t::kLogits, "not there"});
  ASSERT_EQ(outputs.size(), 3u);
  EXPECT_EQ(static_cast<const float*>(outputs.at(t::kLogits)->data())[6], 5.0f);
  EXPECT_EQ(outputs.at(t::kKeep)->data(), nullptr);
}

TEST_F(Plans, ABindingIsDoneOnceThenCapturedThenLaunched) {
  const auto session = decode();
  Step step(*session, 1);
  for (int64_t at = 0; at < 5; ++at) EXPECT_EQ(step.run(3, at), (3 + at) % test::kVocabulary);
  EXPECT_EQ(gpu_->captures, 1);
  EXPECT_EQ(gpu_->launches, 4);
  EXPECT_EQ(gpu_->enqueued, 2);  // the first run, and what was captured
  const auto* rows = static_cast<const float*>(step.cache->data());
  EXPECT_EQ(std::vector<float>(rows, rows + 6), (std::vector<float>{3, 3, 3, 3, 3, 0}));
  EXPECT_TRUE(log_.empty());
}

TEST_F(Plans, WhatCannotBeCapturedIsSaidOnceAndDoneWithout) {
  gpu_->refuses_capture = true;
  const auto session = decode();
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
  Step untried(*decode(false), 1);
  const auto session = decode();
  Step wide(*session, 3);
  for (int64_t at = 0; at < 3; ++at) {
    untried.run(1, at);
    wide.run(1, at);
  }
  EXPECT_EQ(gpu_->captures, 0);
  EXPECT_EQ(gpu_->enqueued, 6);
}

TEST_F(Plans, TheFirstProfileInWhichAllLiesIsTaken) {
  test::Plan plan = test::toy_decode();
  plan.profiles[0][t::kInputIds] = test::tokens(2, 3);
  plan.profiles[1][t::kInputIds] = test::tokens(1, 8);
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
  const auto session = decode();
  const std::string said = refusal([&] { Step(*session, 9); });
  EXPECT_NE(said.find("not built for this size; where: toy.plan, input_ids; got: [1, 9]; wanted: [1, 1] to [1, 8]"),
            std::string::npos)
      << said;
  const auto vision = open(test::toy_vision());
  for (const Shape& shape : {Shape{1, 3, 4}, Shape{1, 3, 4, 4, 1}, Shape{1, 3, 4, 5}, Shape{1, 3, 4, 0}, Shape{}}) {
    const auto pixels = test::tensor(Kind::kFloat32, shape);
    const std::string message = refusal([&] { vision->run({{t::kPixelValues, TensorPtr(pixels)}}, {}); });
    EXPECT_NE(message.find("wanted: [1, 3, 4, 4] to [1, 3, 4, 4]"), std::string::npos) << message;
  }
}

TEST_F(Plans, AnotherTypeIsRefused) {
  const auto prefill = open(test::toy_prefill());
  const auto image_embeds = test::tensor(Kind::kFloat32, {1, test::kImageEmbeds, 2});
  const std::string said = refusal([&] { prefill->run({{t::kImageEmbeds, TensorPtr(image_embeds)}}, {}); });
  EXPECT_NE(said.find("not the type of a plan; where: toy.plan, image_embeds; got: float32; wanted: float16"),
            std::string::npos)
      << said;
  EXPECT_NE(refusal([&] { prefill->run({{"strange", TensorPtr(image_embeds)}}, {}); }).find("'strange'"), std::string::npos);
}

TEST_F(Plans, OutputsAreBoundToMemoryThatFits) {
  const auto session = decode();
  const Step good(*session, 1);
  const Tensors inputs = {
      {t::kInputIds, good.ids}, {t::kPositions, good.position}, {t::kSlots, good.slot}, {"cache_key.0", good.cache}};
  const std::vector<float> values(64);
  const std::vector<TensorPtr> bad = {session->cell({Kind::kFloat32, {1, 2, test::kVocabulary}, values.data()}),
                                      session->cell({Kind::kInt64, {1, 1, 2}, values.data()}),
                                      test::tensor(Kind::kFloat32, {1, 1, test::kVocabulary})};
  for (const TensorPtr& tensor : bad) {
    const std::string said =
        refusal([&] { session->bind(inputs, {{t::kLogits, tensor}, {"cache_key_out.0", good.cache}}); });
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
    auto session = decode();
    Step step(*session, 1);
    for (int64_t at = 0; at < 3; ++at) step.run(1, at);
    EXPECT_GT(gpu_->blocks, 0);
    session.reset();
    EXPECT_EQ(step.run(1, 3), 4);  // a binding holds on to all that it needs
  }
  EXPECT_EQ(gpu_->blocks, 0);
}

TEST_F(Plans, ManyThreadsRunAndBindAtOnce) {
  const auto prefill = open(test::toy_prefill());
  const auto session = decode();
  const TensorPtr image_embeds = open(test::toy_vision())
                               ->run({{t::kPixelValues, TensorPtr(test::tensor(Kind::kFloat32, {1, 3, 4, 4}))}}, {})
                               .at(t::kImageEmbeds);
  const auto work = [&](int64_t id) {
    const Array ids{Kind::kInt64, {1, 1}, &id};
    for (int64_t at = 0; at < 20; ++at) {
      const Tensors outputs =
          prefill->run({{t::kPrefixIds, ids}, {t::kSuffixIds, ids}, {t::kImageEmbeds, image_embeds}}, {t::kLogits});
      EXPECT_EQ(static_cast<const float*>(outputs.at(t::kLogits)->data())[2 * id % test::kVocabulary], 5.0f);
    }
    Step step(*session, 1);
    for (int64_t at = 0; at < 20; ++at) EXPECT_EQ(step.run(id, at), (id + at) % test::kVocabulary);
  };
  std::vector<std::thread> threads;
  for (int64_t id = 0; id < 6; ++id) threads.emplace_back(work, id);
  for (std::thread& thread : threads) thread.join();
}

// The toy as an engine: plans beside the session that prepares images, which is another backend's.
TEST_F(Plans, AnEngineOnPlansGivesTheTokensOfTheToy) {
  Sessions sessions = test::fake_sessions();
  sessions.vision = open(test::toy_vision());
  sessions.prefill = open(test::toy_prefill());
  sessions.decode = decode();
  sessions.router = nullptr;
  Entry entry = test::fake_entry();
  entry.pruning.kept_layers = std::vector<int64_t>{0, 2};
  const Engine plans(entry, test::fake_facts(), sessions), toy = test::fake_engine();
  const std::vector<uint8_t> pixels(4 * 4 * 3);
  const PromptIds prompt = {{1, 2}, {3}};
  std::vector<std::vector<float>> logits;
  for (const Engine* engine : {&plans, &toy}) {
    const TensorPtr pixel_values = engine->preprocess({Kind::kUint8, {4, 4, 3}, pixels.data()});
    const TensorPtr image_embeds = engine->embed_pixels(pixel_values);
    Prefilled state = engine->prefill(prompt, image_embeds, engine->route(prompt, image_embeds), 8);
    std::vector<float> all = state.logits;
    for (const std::vector<int64_t>& ids : std::vector<std::vector<int64_t>>{{3}, {5}, {6}, {1, 2, 3}, {4}, {9}}) {
      const std::vector<float> step = engine->decode(state, ids);
      all.insert(all.end(), step.begin(), step.end());
    }
    EXPECT_EQ(state.keep_indices, (std::vector<int64_t>{1, 3}));
    EXPECT_EQ(state.kept_layers, (std::vector<int64_t>{0, 2}));
    logits.push_back(std::move(all));
  }
  EXPECT_EQ(logits[0], logits[1]);
}

}  // namespace
}  // namespace ar
