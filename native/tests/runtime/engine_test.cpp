// The engine on toy sessions: what it feeds, what it believes of a graph's word, and its limits.
#include "runtime/engine.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "fake_sessions.hpp"
#include "world.hpp"

namespace ar {
namespace {

using Ids = std::vector<int64_t>;

const Ids kOne = {1, 2, test::kPlaceholder, 3};

PreparedImages prepared(const Engine& engine, std::size_t images) {
  static const uint8_t pixel[3] = {'a', 'b', 'c'};
  return engine.prepare(std::vector<Image>(images, Image{pixel, 1, 1}));
}

Task task(const Engine& engine, const Ids& ids = kOne, std::size_t images = 1, int64_t free_slots = 3) {
  return {engine.layout(ids, prepared(engine, images).planned), std::nullopt, free_slots};
}

struct Started {
  Prefilled state;
  Pool pool;
};

Started start(const Engine& engine, const Task& asked) {
  const std::size_t images = asked.layout.tokens_by_image.size();
  const TensorPtr image_embeds = engine.embed(prepared(engine, images));
  const std::optional<Scores> scores = engine.route(asked.layout, image_embeds);
  engine.check(asked);
  Pool pool = engine.pool(engine.pool_shape(asked), scores);
  Prefilled state = engine.prefill(pool, 0, asked, image_embeds, scores);
  return {std::move(state), std::move(pool)};
}

// An engine whose decoder gives `change(outputs)` for a prompt.
Engine lying(const std::function<void(Tensors&)>& change) {
  Sessions sessions = test::fake_sessions();
  sessions.decoder = std::make_shared<test::FakeSession>(
      sessions.decoder->inputs(), sessions.decoder->outputs(), test::FakeSession::Compute{},
      [change](const Tensors& inputs, const Tensors&) {
        Tensors outputs = test::prompted(inputs);
        change(outputs);
        return outputs;
      });
  return {test::fake_entry(), test::fake_facts(), sessions};
}

TEST(LayerMask, KeepsTheBestOfThoseAboveK) {
  Pruning pruning;
  pruning.layers = 3;
  pruning.prune_layer = 1;
  const float nan = std::numeric_limits<float>::quiet_NaN(), low = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(layer_mask({-5, 1, 3, 1, 2}, pruning), (std::vector<uint8_t>{1, 0, 1, 0, 1}));
  EXPECT_EQ(layer_mask({0, 1, 1, 1, 1}, pruning), (std::vector<uint8_t>{1, 1, 1, 0, 0}));    // the lower index
  EXPECT_EQ(layer_mask({0, nan, low, 1, 0}, pruning), (std::vector<uint8_t>{1, 0, 0, 1, 1}));
}

TEST(Engine, ReportsTheDecisionAndTheClocks) {
  const Engine engine = test::fake_engine();
  const Started started = start(engine, task(engine));
  EXPECT_EQ(started.state.keep_indices, (Ids{2, 3}));
  EXPECT_EQ(started.state.kept_layers, (Ids{0, 2}));
  const Clocks& clocks = started.pool.clocks();
  EXPECT_EQ(clocks.position, 3 + test::kImageTokens);
  EXPECT_EQ(clocks.slot, 3 + test::kImageTokens);
  EXPECT_EQ(clocks.kept_slot, 3 + test::kKept);
  EXPECT_EQ(clocks.free_slots, 3);
}

TEST(Engine, EachImageKeepsItsOwn) {
  const Engine engine = test::fake_engine();
  const Task two = task(engine, {1, test::kPlaceholder, 2, test::kPlaceholder, 3}, 2);
  EXPECT_EQ(start(engine, two).state.keep_indices, (Ids{2, 3, 6, 7}));
  Task most = two;
  most.keep = Keep{3, 4};
  const Started started = start(engine, most);
  EXPECT_EQ(started.state.keep_indices, (Ids{1, 2, 3, 5, 6, 7}));
  EXPECT_EQ(started.pool.clocks().kept_slot, 3 + 6);
}

TEST(Engine, WithoutAnImageNothingIsDropped) {
  for (const bool dynamic : {true, false}) {
    const Engine engine = test::fake_engine(nullptr, dynamic);
    const Started started = start(engine, task(engine, {1, 2, 3}, 0));
    EXPECT_TRUE(started.state.keep_indices.empty());
    EXPECT_EQ(started.state.kept_layers, (Ids{0, 2}));
    EXPECT_EQ(started.pool.clocks().kept_slot, 3);
  }
}

TEST(Engine, WithoutPruningAllTokensAreReported) {
  Entry entry = test::fake_entry(false);
  entry.pruning.keep = {};
  entry.pruning.kept_layers = {{0, 1, 2}};
  Sessions sessions = test::fake_sessions(nullptr, false);
  sessions.router = nullptr;
  const Engine engine(entry, test::fake_facts(), sessions);
  const Started started = start(engine, task(engine));
  EXPECT_EQ(started.state.keep_indices, (Ids{0, 1, 2, 3}));
  EXPECT_EQ(started.state.kept_layers, (Ids{0, 1, 2}));
  Task less = task(engine);
  less.keep = Keep{1, 2};
  EXPECT_EQ(test::status_of([&] { engine.check(less); }), AR_INPUT_INVALID);
  less.keep = Keep{};
  engine.check(less);
}

TEST(Engine, BelievesNoGraphThatGivesOtherTensors) {
  const auto refused = [](const std::function<void(Tensors&)>& change) {
    const Engine engine = lying(change);
    return test::status_of([&] { start(engine, task(engine)); });
  };
  const auto put = [&](const char* name, Kind kind, const Shape& shape) {
    return refused([&](Tensors& outputs) { outputs[name] = test::tensor(kind, shape); });
  };
  EXPECT_EQ(refused([](Tensors&) {}), AR_OK);
  EXPECT_EQ(refused([](Tensors& outputs) { outputs.erase(t::kLogits); }), AR_BACKEND_ERROR);
  EXPECT_EQ(refused([](Tensors& outputs) { outputs.erase(t::kKeepIndices); }), AR_BACKEND_ERROR);  // the entry prunes
  EXPECT_EQ(put(t::kLogits, Kind::kFloat32, {1, 1, 3}), AR_BACKEND_ERROR);
  EXPECT_EQ(put(t::kLogits, Kind::kInt64, {1, 1, test::kVocabulary}), AR_BACKEND_ERROR);
  EXPECT_EQ(put(t::kKeepIndices, Kind::kInt64, {1}), AR_BACKEND_ERROR);
  EXPECT_EQ(put(t::kKeepIndices, Kind::kFloat32, {test::kKept}), AR_BACKEND_ERROR);
}

TEST(Engine, BelievesNoManifestThatCountsOtherwise) {
  for (const int64_t vocabulary : {int64_t{5}, int64_t{1} << 62, std::numeric_limits<int64_t>::max()}) {
    EngineFacts facts = test::fake_facts();
    facts.model.vocabulary = vocabulary;
    const Engine engine(test::fake_entry(), facts, test::fake_sessions());
    EXPECT_EQ(test::status_of([&] { start(engine, task(engine)); }), AR_BACKEND_ERROR);
  }
  EngineFacts facts = test::fake_facts();
  facts.model.images.tokens = images::kMostTokens;  // more is refused where the bundle is opened
  const Engine vast(test::fake_entry(), facts, test::fake_sessions());
  EXPECT_EQ(test::status_of([&] { task(vast); }), AR_PROMPT_TOO_LONG);
}

TEST(Engine, DemandsScoresAndKeepsRoom) {
  const Engine engine = test::fake_engine();
  const Task asked = task(engine);
  const TensorPtr image_embeds = test::tensor(Kind::kFloat32, {4, 2});
  Pool pool = engine.pool(engine.pool_shape(asked));
  EXPECT_EQ(test::status_of([&] { engine.prefill(pool, 0, asked, image_embeds, std::nullopt); }), AR_INPUT_INVALID);
  for (const int64_t free_slots : {-1, 9}) {
    EXPECT_EQ(test::status_of([&] { engine.check(task(engine, kOne, 1, free_slots)); }), AR_INPUT_INVALID);
  }
  EngineFacts facts = test::fake_facts();
  facts.model.max_positions = 9;  // two more than the prompt
  const Engine full(test::fake_entry(), facts, test::fake_sessions());
  full.check(task(full, kOne, 1, 2));
  EXPECT_EQ(test::status_of([&] { full.check(task(full, kOne, 1, 3)); }), AR_PROMPT_TOO_LONG);
}

TEST(Engine, ChecksIdsThatAProgramBrings) {
  const Engine engine = test::fake_engine();
  const auto refused = [&](const Ids& ids, std::size_t images) {
    return test::status_of([&] {
      engine.check(ids);
      engine.check_images(images);
      engine.layout(ids, prepared(engine, images).planned);
    });
  };
  EXPECT_EQ(refused(kOne, 1), AR_OK);
  EXPECT_EQ(refused({}, 0), AR_INPUT_INVALID);
  EXPECT_EQ(refused({-1}, 0), AR_INPUT_INVALID);
  EXPECT_EQ(refused({test::kVocabulary}, 0), AR_INPUT_INVALID);
  EXPECT_EQ(refused(kOne, 0), AR_INPUT_INVALID);
  EXPECT_EQ(refused(kOne, 2), AR_INPUT_INVALID);
  EXPECT_EQ(refused({1, test::kPlaceholder}, 1), AR_INPUT_INVALID);  // nothing behind the image
  EXPECT_EQ(refused(Ids(17, 1), 0), AR_PROMPT_TOO_LONG);
  EXPECT_EQ(refused({test::kPlaceholder, test::kPlaceholder, test::kPlaceholder, 1}, 3), AR_PROMPT_TOO_LONG);
  EXPECT_EQ(test::status_of([&] { engine.ids({}); }), AR_INPUT_INVALID);  // it has no tokenizer
  EXPECT_EQ(test::status_of([&] { engine.rendered_ids("what?"); }), AR_INPUT_INVALID);
}

}  // namespace
}  // namespace ar
