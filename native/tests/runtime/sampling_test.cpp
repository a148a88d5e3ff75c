// Sampling: greedy ties, the distribution that is drawn from, seeds, and what is refused.
#include "runtime/sampling.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "world.hpp"

namespace ar {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<int64_t> draws(const Sampling& sampling, const std::vector<float>& logits, std::size_t count) {
  Picker pick(sampling);
  std::vector<int64_t> tokens;
  while (tokens.size() < count) tokens.push_back(pick(logits));
  return tokens;
}

std::set<int64_t> drawn(const Sampling& sampling, const std::vector<float>& logits) {
  const std::vector<int64_t> tokens = draws(sampling, logits, 1000);
  return {tokens.begin(), tokens.end()};
}

TEST(Sampling, TheSameSeedDrawsTheSame) {
  const std::vector<float> even(50);
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32, ~uint64_t{0}})
    EXPECT_EQ(draws({1, 0, 1, seed}, even, 40), draws({1, 0, 1, seed}, even, 40));
  EXPECT_NE(draws({1, 0, 1, 1}, even, 40), draws({1, 0, 1, 2}, even, 40));
  EXPECT_NE(draws({1, 0, 1, 1}, even, 40), draws({1, 0, 1, uint64_t{1} << 32}, even, 40));
  EXPECT_NE(draws({1, 0, 1, {}}, even, 40), draws({1, 0, 1, {}}, even, 40));
}

// Logits of 0, log 2 and log 5 are drawn in 1, 2 and 5 of 8 cases; half the temperature squares that: 1, 4, 25 of 30.
TEST(Sampling, TokensComeAsOftenAsTheirProbabilitySays) {
  const std::vector<float> logits = {0, std::log(2.0f), std::log(5.0f)};
  constexpr std::size_t kCount = 40'000;
  const std::pair<double, std::vector<double>> cases[] = {{1.0, {1 / 8.0, 2 / 8.0, 5 / 8.0}},
                                                          {0.5, {1 / 30.0, 4 / 30.0, 25 / 30.0}}};
  for (const auto& [temperature, wanted] : cases) {
    std::vector<double> found(3);
    for (const int64_t token : draws({temperature, 0, 1, 7}, logits, kCount)) ++found.at(static_cast<std::size_t>(token));
    for (std::size_t token = 0; token < 3; ++token) EXPECT_NEAR(found[token] / kCount, wanted[token], 0.01);
  }
}

TEST(Sampling, TopKKeepsTheBestAndTheirEquals) {
  const std::vector<float> logits = {0, 3, 2, 2, 1};
  EXPECT_EQ(drawn({2, 1, 1, 0}, logits), (std::set<int64_t>{1}));
  EXPECT_EQ(drawn({2, 2, 1, 0}, logits), (std::set<int64_t>{1, 2, 3}));
  EXPECT_EQ(drawn({2, 9, 1, 0}, logits), (std::set<int64_t>{0, 1, 2, 3, 4}));
}

TEST(Sampling, TopPKeepsTheFewestWhoseProbabilityReachesIt) {
  const std::vector<float> logits = {0, std::log(4.0f), std::log(3.0f), std::log(2.0f)};  // 1, 4, 3, 2 of 10
  EXPECT_EQ(drawn({1, 0, 0.01, 0}, logits), (std::set<int64_t>{1}));
  EXPECT_EQ(drawn({1, 0, 0.39, 0}, logits), (std::set<int64_t>{1}));
  EXPECT_EQ(drawn({1, 0, 0.41, 0}, logits), (std::set<int64_t>{1, 2}));
  EXPECT_EQ(drawn({1, 0, 0.71, 0}, logits), (std::set<int64_t>{1, 2, 3}));
  EXPECT_EQ(drawn({1, 2, 0.6, 0}, logits), (std::set<int64_t>{1, 2})) << "of what top_k leaves, 4 and 3 of 7";
  EXPECT_EQ(drawn({1, 2, 0.5, 0}, logits), (std::set<int64_t>{1}));
}

TEST(Sampling, GreedyTakesTheFirstOfEquals) { EXPECT_EQ(draws({}, {0, 3, 3, -1}, 1).front(), 1); }

TEST(Sampling, NeverDrawsWhatIsMasked) {
  EXPECT_EQ(drawn({1, 0, 1, 0}, {0, -kInfinity, 0}), (std::set<int64_t>{0, 2}));
}

TEST(Sampling, NearZeroIsGreedy) { EXPECT_EQ(draws({1e-300, 0, 1, 0}, {0, 1, 2}, 5), (std::vector<int64_t>(5, 2))); }

TEST(Sampling, TopPNextToOneKeepsAllThatRoundingLeaves) {
  EXPECT_GT(drawn({1, 0, std::nextafter(1.0, 0.0), 0}, std::vector<float>(50)).size(), 45u);
}

TEST(Sampling, RefusesLogitsThatAreNotNumbers) {
  for (const Sampling& sampling : {Sampling{}, Sampling{1, 0, 1, 0}}) {
    for (const std::vector<float>& bad :
         {std::vector<float>{0, kNan, 1}, {kNan, 9}, {0, kInfinity}, {-kInfinity, -kInfinity}}) {
      EXPECT_EQ(test::status_of([&] { draws(sampling, bad, 1); }), AR_BACKEND_ERROR);
    }
  }
}

TEST(Sampling, RefusesImpossibleOptions) {
  for (const Sampling& bad :
       {Sampling{-1, 0, 1, 0}, Sampling{kNan, 0, 1, 0}, Sampling{kInfinity, 0, 1, 0}, Sampling{1, -1, 1, 0},
        Sampling{1, 0, 0, 0}, Sampling{1, 0, 1.01, 0}, Sampling{1, 0, kNan, 0}}) {
    EXPECT_EQ(test::status_of([&] { bad.check(); }), AR_INPUT_INVALID);
  }
  Sampling{1, 3, 0.5, 4}.check();
}

}  // namespace
}  // namespace ar
