// The KV pool: two clocks, free slots, and what is tied to which memory.
#include "runtime/cache.hpp"

#include <gtest/gtest.h>

#include "fake_sessions.hpp"
#include "world.hpp"

namespace ar {
namespace {

using test::Seen;

Tensors held() {
  return {{t::kLayerMask, test::tensor(Kind::kBool, {3})}, {"cache_key.0", test::tensor(Kind::kFloat32, {1, 1, 8, 2})}};
}

int64_t best(const std::vector<float>& logits, int64_t row) {
  const auto first = logits.begin() + row * test::kVocabulary;
  return std::distance(first, std::max_element(first, first + test::kVocabulary));
}

TEST(Cache, TwoClocksRunTogether) {
  std::vector<Seen> seen;
  Cache cache(test::fake_decode(&seen), held(), {20, 12, 5}, test::kVocabulary);
  cache.advance({3});
  cache.advance({4, 5});
  cache.advance({6});
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_EQ((std::vector<int64_t>{seen[0].position, seen[1].position, seen[2].position}),
            (std::vector<int64_t>{20, 21, 23}));
  EXPECT_EQ((std::vector<int64_t>{seen[0].slot, seen[1].slot, seen[2].slot}), (std::vector<int64_t>{12, 13, 15}));
  EXPECT_EQ((std::vector<int64_t>{seen[0].id, seen[1].id, seen[2].id}), (std::vector<int64_t>{3, 4, 6}));
  EXPECT_EQ(cache.clocks().position, 24);
  EXPECT_EQ(cache.clocks().slot, 16);
  EXPECT_EQ(cache.clocks().free_slots, 1);
}

TEST(Cache, GivesOneRowOfLogitsPerToken) {
  Cache cache(test::fake_decode(), held(), {20, 12, 5}, test::kVocabulary);
  const std::vector<float> logits = cache.advance({3, 4});
  ASSERT_EQ(logits.size(), static_cast<std::size_t>(2 * test::kVocabulary));
  EXPECT_EQ(best(logits, 0), (3 + 20) % test::kVocabulary);
  EXPECT_EQ(best(logits, 1), (4 + 21) % test::kVocabulary);
}

TEST(Cache, IsTiedOnceForManySteps) {
  const auto decode = test::fake_decode();
  Cache cache(decode, held(), {20, 12, 6}, test::kVocabulary);
  for (int step = 0; step < 5; ++step) cache.advance({3});
  EXPECT_EQ(decode->binds, 1);
}

TEST(Cache, KeepsItsRoom) {
  Cache cache(test::fake_decode(), held(), {20, 12, 2}, test::kVocabulary);
  EXPECT_EQ(test::status_of([&] { cache.advance({}); }), AR_INPUT_INVALID);
  EXPECT_EQ(test::status_of([&] { cache.advance({1, 2, 3}); }), AR_INPUT_INVALID);
  cache.advance({1, 2});
  EXPECT_EQ(test::status_of([&] { cache.advance({3}); }), AR_INPUT_INVALID);
}

TEST(Cache, RefusesADecodeGraphThatWantsMore) {
  Tensors some = held();
  some.erase(t::kLayerMask);
  EXPECT_EQ(test::status_of([&] { Cache(test::fake_decode(), some, {20, 12, 2}, test::kVocabulary); }),
            AR_BACKEND_ERROR);
}

TEST(Cache, TiesEachCacheInPlace) {
  Tensors tied_inputs, tied_outputs;
  const auto decode = std::make_shared<test::FakeSession>(
      std::vector<std::string>{t::kInputIds, t::kPositions, "cache_key.0", "cache_value.12"},
      std::vector<std::string>{t::kLogits, "cache_key_out.0", "cache_value_out.12"}, test::FakeSession::Compute{},
      [&](const Tensors& inputs, const Tensors& outputs) {
        tied_inputs = inputs;
        tied_outputs = outputs;
      });
  Tensors both = held();
  both["cache_value.12"] = test::tensor(Kind::kFloat32, {1, 1, 8, 2});
  Cache(decode, both, {5, 5, 1}, test::kVocabulary).advance({1});
  EXPECT_EQ(tied_inputs.size(), 4u);
  EXPECT_EQ(tied_outputs.at("cache_key_out.0"), tied_inputs.at("cache_key.0"));
  EXPECT_EQ(tied_outputs.at("cache_value_out.12"), tied_inputs.at("cache_value.12"));
}

}  // namespace
}  // namespace ar
