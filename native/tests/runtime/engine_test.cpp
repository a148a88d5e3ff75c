// The engine on toy sessions: what it feeds, what it believes of a graph's word, and its limits.
#include "runtime/engine.hpp"

#include <gtest/gtest.h>

#include "fake_sessions.hpp"
#include "world.hpp"

namespace ar {
namespace {

const PromptIds kPrompt{{1, 2}, {3, 4, 5}};

Prefilled start(const Engine& engine, int64_t free_slots = 3) {
  const TensorPtr image_embeds = engine.embed_pixels(engine.preprocess({Kind::kUint8, {1, 1, 3}, "abc"}));
  return engine.prefill(kPrompt, image_embeds, engine.route(kPrompt, image_embeds), free_slots);
}

// An engine whose prefill graph gives `change(outputs)`.
Engine lying(const std::function<void(Tensors&)>& change) {
  Sessions sessions = test::fake_sessions();
  sessions.prefill = std::make_shared<test::FakeSession>(sessions.prefill->inputs(), sessions.prefill->outputs(),
                                                         [change](const Feeds& feeds) {
                                                           Tensors outputs = test::prefilled(feeds);
                                                           change(outputs);
                                                           return outputs;
                                                         });
  return {test::fake_entry(), test::fake_facts(), sessions};
}

TEST(Engine, ReportsTheFlowAndTheClocks) {
  const Engine engine = test::fake_engine();
  EXPECT_TRUE(engine.routes());
  const Prefilled state = start(engine);
  EXPECT_EQ(state.keep_indices, (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(state.kept_layers, (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(state.cache.clocks().position, 5 + test::kImageEmbeds);
  EXPECT_EQ(state.cache.clocks().slot, 5 + test::kKept);
  EXPECT_EQ(state.cache.clocks().free_slots, 3);
}

TEST(Engine, RouterScoresGoToPrefill) {
  Sessions sessions = test::fake_sessions();
  std::vector<float> given;
  sessions.prefill = std::make_shared<test::FakeSession>(
      sessions.prefill->inputs(), sessions.prefill->outputs(), [&](const Feeds& feeds) {
        const auto& scores = std::get<Array>(feeds.at(t::kTokenScores));
        const auto* first = static_cast<const float*>(scores.data);
        given.assign(first, first + scores.shape.back());
        return test::prefilled(feeds);
      });
  start({test::fake_entry(), test::fake_facts(), sessions});
  EXPECT_EQ(given, (std::vector<float>{0, 3, 1, 2}));
}

TEST(Engine, WithoutPruningAllTokensAndThePlanOfTheManifestAreReported) {
  Sessions sessions = test::fake_sessions();
  sessions.prefill =
      std::make_shared<test::FakeSession>(std::vector<std::string>{t::kPrefixIds, t::kImageEmbeds, t::kSuffixIds, t::kFreeSlots},
                                          std::vector<std::string>{t::kLogits}, [](const Feeds& feeds) {
                                            Tensors outputs = test::prefilled(feeds);
                                            outputs.erase(t::kKeep);
                                            outputs.erase(t::kLayerMask);
                                            return outputs;
                                          });
  sessions.decode =
      std::make_shared<test::FakeSession>(std::vector<std::string>{t::kInputIds, "cache_key.0"},
                                          std::vector<std::string>{t::kLogits}, test::FakeSession::Compute{});
  sessions.router = nullptr;
  Entry entry = test::fake_entry();
  entry.pruning.keep = test::kImageEmbeds;
  entry.pruning.kept_layers = {{0, 1, 2}};
  const Engine engine(entry, test::fake_facts(), sessions);
  EXPECT_FALSE(engine.routes());
  const Prefilled state = start(engine);
  EXPECT_EQ(state.keep_indices, (std::vector<int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(state.kept_layers, (std::vector<int64_t>{0, 1, 2}));
}

TEST(Engine, BelievesNoGraphThatGivesOtherTensors) {
  const auto refused = [](const std::function<void(Tensors&)>& change) {
    return test::status_of([&] { start(lying(change)); });
  };
  EXPECT_EQ(refused([](Tensors&) {}), AR_OK);
  EXPECT_EQ(refused([](Tensors& outputs) { outputs.erase(t::kLogits); }), AR_BACKEND_ERROR);
  EXPECT_EQ(refused([](Tensors& o) { o[t::kLogits] = test::tensor(Kind::kFloat32, {1, 3}); }), AR_BACKEND_ERROR);
  EXPECT_EQ(refused([](Tensors& o) { o[t::kLogits] = test::tensor(Kind::kInt64, {1, test::kVocabulary}); }),
            AR_BACKEND_ERROR);
  EXPECT_EQ(refused([](Tensors& o) { o[t::kKeep] = test::tensor(Kind::kInt64, {1, 1}); }), AR_BACKEND_ERROR);
  EXPECT_EQ(refused([](Tensors& o) { o[t::kLayerMask] = test::tensor(Kind::kFloat32, {3}); }), AR_BACKEND_ERROR);
  EXPECT_EQ(refused([](Tensors& o) { o.erase("cache_key.0"); }), AR_BACKEND_ERROR);
  EXPECT_EQ(refused([](Tensors& o) { o.erase(t::kKeep); }), AR_BACKEND_ERROR);       // the entry prunes
  EXPECT_EQ(refused([](Tensors& o) { o.erase(t::kLayerMask); }), AR_BACKEND_ERROR);  // and is dynamic
}

TEST(Engine, BelievesNoManifestThatCountsOtherwise) {
  for (const int64_t vocabulary : {int64_t{5}, int64_t{1} << 62, std::numeric_limits<int64_t>::max()}) {
    EngineFacts facts = test::fake_facts();
    facts.model.vocabulary = vocabulary;
    EXPECT_EQ(test::status_of([&] { start({test::fake_entry(), facts, test::fake_sessions()}); }), AR_BACKEND_ERROR);
  }
  EngineFacts facts = test::fake_facts();
  facts.model.image_tokens = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(test::status_of([&] { start({test::fake_entry(), facts, test::fake_sessions()}); }), AR_BACKEND_ERROR);
}

TEST(Engine, RefusesAnInputThatItDoesNotKnow) {
  Sessions sessions = test::fake_sessions();
  sessions.prefill = std::make_shared<test::FakeSession>(std::vector<std::string>{"temperature"},
                                                         std::vector<std::string>{t::kLogits}, test::prefilled);
  std::string message;
  EXPECT_EQ(test::status_of([&] { start({test::fake_entry(), test::fake_facts(), sessions}); }, &message),
            AR_BACKEND_ERROR);
  EXPECT_NE(message.find("temperature"), std::string::npos);
}

TEST(Engine, DemandsScoresAndKeepsRoom) {
  const Engine engine = test::fake_engine();
  const TensorPtr image_embeds = engine.embed_pixels(engine.preprocess({Kind::kUint8, {1, 1, 3}, "abc"}));
  EXPECT_EQ(test::status_of([&] { engine.prefill(kPrompt, image_embeds, std::nullopt, 1); }), AR_INPUT_INVALID);
  for (const int64_t free_slots : {-1, 9}) EXPECT_EQ(test::status_of([&] { start(engine, free_slots); }), AR_INPUT_INVALID);
}

TEST(Engine, ChecksIdsThatAProgramBrings) {
  const Engine engine = test::fake_engine();
  engine.check(kPrompt);
  for (const PromptIds& bad :
       {PromptIds{{}, {1}}, PromptIds{{1}, {}}, PromptIds{{-1}, {1}}, PromptIds{{1}, {test::kVocabulary}}}) {
    EXPECT_EQ(test::status_of([&] { engine.check(bad); }), AR_INPUT_INVALID);
  }
  EXPECT_EQ(test::status_of([&] { engine.check({{1}, std::vector<int64_t>(16, 1)}); }), AR_PROMPT_TOO_LONG);
  EXPECT_EQ(test::status_of([&] { engine.prompt("what?"); }), AR_INPUT_INVALID);  // it has no tokenizer
}

}  // namespace
}  // namespace ar
