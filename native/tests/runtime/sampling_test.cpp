// Sampling against what numpy and Python's runtime drew (sampling_vectors.py).
#include "runtime/sampling.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "runtime/measure.hpp"
#include "world.hpp"

namespace ar {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

const nlohmann::json& vectors() {
  static const nlohmann::json loaded = nlohmann::json::parse(std::ifstream(SAMPLING_VECTORS));
  return loaded;
}

std::vector<int64_t> draws(const Sampling& sampling, const std::vector<float>& logits, std::size_t count) {
  Picker pick(sampling);
  std::vector<int64_t> tokens;
  while (tokens.size() < count) tokens.push_back(pick(logits));
  return tokens;
}

TEST(Random, IsNumpys) {
  ASSERT_GE(vectors().at("uniform").size(), 5u);
  for (const auto& each : vectors().at("uniform")) {
    Random random(each.at("seed").get<uint64_t>());
    for (const double wanted : each.at("values")) EXPECT_EQ(random.uniform(), wanted) << each.at("seed");
  }
}

TEST(Random, BytesAreNumpys) {
  Random random(0);
  uint64_t word = 0;
  int left = 0;
  for (const int wanted : vectors().at("bytes")) {
    if (left == 0) word = random.next();
    EXPECT_EQ(static_cast<int>(word & 0xff), wanted);
    word >>= 8;
    left = (left + 7) % 8;
  }
}

TEST(Random, IsFreshWithoutASeed) { EXPECT_NE(Random::fresh().next(), Random::fresh().next()); }

TEST(Sampling, DrawsWhatPythonDraws) {
  ASSERT_GE(vectors().at("draws").size(), 20u);
  for (const auto& each : vectors().at("draws")) {
    const std::vector<float> logits = vectors().at("rows").at(each.at("row").get<std::size_t>());
    const Sampling sampling{each.at("temperature"), each.value("top_k", int64_t{0}), each.value("top_p", 1.0),
                            each.at("seed").get<uint64_t>()};
    const std::vector<int64_t> wanted = each.at("tokens");
    EXPECT_EQ(draws(sampling, logits, wanted.size()), wanted) << each.dump();
  }
}

TEST(Sampling, GreedyTakesTheFirstOfEquals) { EXPECT_EQ(draws({}, {0, 3, 3, -1}, 1).front(), 1); }

TEST(Sampling, NeverDrawsWhatIsMasked) {
  const std::vector<int64_t> tokens = draws({1, 0, 1, 0}, {0, -kInfinity, 0}, 200);
  EXPECT_EQ(std::set<int64_t>(tokens.begin(), tokens.end()), (std::set<int64_t>{0, 2}));
}

TEST(Sampling, NearZeroIsGreedy) { EXPECT_EQ(draws({1e-300, 0, 1, 0}, {0, 1, 2}, 5), (std::vector<int64_t>(5, 2))); }

TEST(Sampling, TopPNextToOneKeepsAllThatRoundingLeaves) {
  const std::vector<int64_t> tokens = draws({1, 0, std::nextafter(1.0, 0.0), 0}, std::vector<float>(50), 500);
  EXPECT_GT(std::set<int64_t>(tokens.begin(), tokens.end()).size(), 30u);
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

TEST(Percentiles, AreNumpysRoundedAsPythonRounds) {
  for (const auto& each : vectors().at("percentiles")) {
    const Percentiles got = percentiles(each.at("values"));
    EXPECT_EQ((std::vector<double>{got.p50, got.p95, got.p99}), each.at("wanted").get<std::vector<double>>());
  }
}

}  // namespace
}  // namespace ar
