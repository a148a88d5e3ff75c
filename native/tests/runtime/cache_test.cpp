// The KV pool: clocks, free slots, sequences that come and go, and what is tied to which memory.
#include "runtime/cache.hpp"

#include <gtest/gtest.h>

#include "fake_sessions.hpp"
#include "world.hpp"

namespace ar {
namespace {

using test::Seen;

constexpr int64_t kFirst = 3;  // of each prompt, what its cache keeps

Pruning pruning() { return test::fake_entry(false).pruning; }

// A pool of sequences whose prompts begin with kFirst, kFirst + 1, ...; each 20 rows long, 12 of which are kept.
Pool filled(const std::shared_ptr<test::FakeSession>& decoder, int64_t sequences = 1, int64_t free_slots = 5) {
  Pool pool(decoder, pruning(), {sequences, 20 + free_slots, 12 + free_slots}, test::kVocabulary);
  for (int64_t slot = 0; slot < sequences; ++slot) {
    const int64_t id = kFirst + slot, one = 1;
    const Array none{Kind::kInt64, {0}, nullptr};
    pool.prefill({{t::kInputIds, Array{Kind::kInt64, {1, 1}, &id}},
                  {t::kPositionIds, Array{Kind::kInt64, {1, 1, 1}, &id}},
                  {t::kImageEmbeds, test::tensor(Kind::kFloat32, {0, 2})},
                  {t::kImageIndex, none},
                  {t::kImageOf, none},
                  {t::kKeepCounts, none},
                  {t::kTokenScores, Array{Kind::kFloat32, {0}, nullptr}},
                  {t::kLogitsToKeep, Array{Kind::kInt64, {1}, &one}}},
                 {20 + slot, 20, 12, free_slots}, slot);
  }
  return pool;
}

std::shared_ptr<test::FakeSession> decoder(std::vector<Seen>* seen = nullptr) {
  return test::fake_decoder(seen, false);
}

int64_t best(const std::vector<float>& logits, int64_t row) {
  const auto first = logits.begin() + row * test::kVocabulary;
  return std::distance(first, std::max_element(first, first + test::kVocabulary));
}

TEST(Pool, ThreeClocksRunTogether) {
  std::vector<Seen> seen;
  Pool pool = filled(decoder(&seen));
  pool.advance({{3}});
  pool.advance({{4, 5}});
  pool.advance({{6}});
  ASSERT_EQ(seen.size(), 3u);
  const int64_t wanted[3][4] = {{3, 20, 20, 12}, {4, 21, 21, 13}, {6, 23, 23, 15}};
  for (std::size_t step = 0; step < 3; ++step) {
    EXPECT_EQ(seen[step].id, wanted[step][0]);
    EXPECT_EQ(seen[step].position, wanted[step][1]);
    EXPECT_EQ(seen[step].slot, wanted[step][2]);
    EXPECT_EQ(seen[step].kept_slot, wanted[step][3]);
  }
  EXPECT_EQ(pool.clocks().position, 24);
  EXPECT_EQ(pool.clocks().slot, 24);
  EXPECT_EQ(pool.clocks().kept_slot, 16);
  EXPECT_EQ(pool.clocks().free_slots, 1);
}

TEST(Pool, GivesOneRowOfLogitsPerToken) {
  const std::vector<float> logits = filled(decoder()).advance({{3, 4}});
  ASSERT_EQ(logits.size(), static_cast<std::size_t>(2 * test::kVocabulary));
  EXPECT_EQ(best(logits, 0), (3 + 20 + kFirst) % test::kVocabulary);
  EXPECT_EQ(best(logits, 1), (4 + 21 + kFirst) % test::kVocabulary);
}

TEST(Pool, IsTiedOnceForManySteps) {
  const auto session = decoder();
  Pool pool = filled(session);
  const int before = session->binds;
  for (int step = 0; step < 5; ++step) pool.advance({{3}});
  EXPECT_EQ(session->binds, before + 1);
}

TEST(Pool, SequencesDecodeTogetherAndLeave) {
  Pool pool = filled(decoder(), 3);
  const auto wanted = [](int64_t id, int64_t sequence, int64_t steps) {
    return (id + 20 + sequence + steps + kFirst + sequence) % test::kVocabulary;
  };
  std::vector<float> logits = pool.advance({{1}, {2}, {3}});
  for (int64_t slot = 0; slot < 3; ++slot) EXPECT_EQ(best(logits, slot), wanted(slot + 1, slot, 0)) << slot;
  pool.move(2, 0);  // the first leaves
  logits = pool.advance({{5}, {6}});
  EXPECT_EQ(best(logits, 0), wanted(5, 2, 1));
  EXPECT_EQ(best(logits, 1), wanted(6, 1, 1));
  EXPECT_EQ(test::status_of([&] { pool.advance({{1}, {1}, {1}}); }), AR_INPUT_INVALID);  // slot 2 is empty
  EXPECT_EQ(test::status_of([&] { pool.clocks(2); }), AR_INPUT_INVALID);
}

TEST(Pool, KeepsItsRoom) {
  Pool pool = filled(decoder(), 1, 2);
  EXPECT_EQ(test::status_of([&] { pool.advance({}); }), AR_INPUT_INVALID);
  EXPECT_EQ(test::status_of([&] { pool.advance({{}}); }), AR_INPUT_INVALID);
  EXPECT_EQ(test::status_of([&] { pool.advance({{1, 2, 3}}); }), AR_INPUT_INVALID);
  pool.advance({{1, 2}});
  EXPECT_EQ(test::status_of([&] { pool.advance({{3}}); }), AR_INPUT_INVALID);
}

TEST(Pool, RefusesRowsOfSeveralLengths) {
  Pool pool = filled(decoder(), 2);
  EXPECT_EQ(test::status_of([&] { pool.advance({{1}, {1, 2}}); }), AR_INPUT_INVALID);
}

TEST(Pool, RefusesADecoderThatWantsMore) {
  const auto session = std::make_shared<test::FakeSession>(
      std::vector<std::string>{t::kInputIds, "temperature"}, std::vector<std::string>{t::kLogits},
      test::FakeSession::Compute{}, test::decoding(nullptr));
  std::string message;
  EXPECT_EQ(test::status_of([&] { filled(session); }, &message), AR_BACKEND_ERROR);
  EXPECT_NE(message.find("temperature"), std::string::npos) << message;
}

TEST(Pool, RowsAreThoseOfTheLayer) {
  const std::vector<std::string> inputs = {t::kInputIds,    "cache_key.0",    "cache_value.1", "cache_key.2",
                                           "cache_key.x",   "cache_key.9999999999", "cache_key"};
  const auto session = std::make_shared<test::FakeSession>(inputs, std::vector<std::string>{t::kLogits},
                                                           test::FakeSession::Compute{});
  Pruning after_one = pruning();
  after_one.prune_layer = 1;
  const Pool pool(session, after_one, {1, 20, 12}, test::kVocabulary, {1, 1, 0});
  const std::map<std::string, int64_t> wanted = {{"cache_key.0", 20}, {"cache_value.1", 12}, {"cache_key.2", 0}};
  EXPECT_EQ(session->rows_of, wanted);
}

TEST(Pool, TiesEachCacheInPlace) {
  Tensors tied_inputs, tied_outputs;
  const auto session = std::make_shared<test::FakeSession>(
      std::vector<std::string>{t::kInputIds, "cache_key.0", "cache_value.12"},
      std::vector<std::string>{t::kLogits, "cache_key_out.0", "cache_value_out.12"}, test::FakeSession::Compute{},
      [&](const Tensors& inputs, const Tensors& outputs) -> Tensors {
        tied_inputs = inputs;
        tied_outputs = outputs;
        return {};
      });
  filled(session).advance({{1}});
  EXPECT_EQ(tied_inputs.size(), 3u);
  EXPECT_EQ(tied_outputs.at("cache_key_out.0"), tied_inputs.at("cache_key.0"));
  EXPECT_EQ(tied_outputs.at("cache_value_out.12"), tied_inputs.at("cache_value.12"));
}

}  // namespace
}  // namespace ar
