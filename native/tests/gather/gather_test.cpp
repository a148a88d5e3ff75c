#include "gather/gather.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "cases.hpp"
#include "gather/rule.hpp"

namespace ar::gather::testing {
namespace {

std::uint32_t key_of(float score) {
  std::uint32_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  return score_key(bits);
}

TEST(Rule, KeysAreOrderedAsScoresAre) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const float ascending[] = {-kInf,
                             std::numeric_limits<float>::lowest(),
                             -1.0f,
                             -std::numeric_limits<float>::min(),
                             -std::numeric_limits<float>::denorm_min(),
                             0.0f,
                             std::numeric_limits<float>::denorm_min(),
                             std::numeric_limits<float>::min(),
                             1.0f,
                             std::nextafter(1.0f, 2.0f),
                             std::numeric_limits<float>::max(),
                             kInf};
  for (std::size_t i = 1; i < std::size(ascending); ++i) EXPECT_LT(key_of(ascending[i - 1]), key_of(ascending[i])) << i;
}

TEST(Rule, NanIsMinusInfinityWhateverItsSignAndPayload) {
  const std::uint32_t lowest = key_of(-std::numeric_limits<float>::infinity());
  for (const std::uint32_t bits : {0x7fc00000u, 0xffc00000u, 0x7f800001u, 0xff800001u, 0x7fffffffu, 0xffffffffu}) {
    EXPECT_EQ(score_key(bits), lowest) << std::hex << bits;
  }
}

TEST(Rule, ZeroHasNoSign) { EXPECT_EQ(key_of(-0.0f), key_of(0.0f)); }

TEST(Rule, DigitsMakeTheKey) {
  constexpr std::uint32_t key = 0x12345678u;
  EXPECT_EQ(digit(key, 24), 0x12);
  EXPECT_EQ(digit(key, 0), 0x78);
  EXPECT_TRUE(same_above(key, 0xffffffffu, 24));
  EXPECT_TRUE(same_above(key, 0x12ffffffu, 16));
  EXPECT_FALSE(same_above(key, 0x13345678u, 16));
}

TEST(GatherCpu, EqualsTheReferenceBitForBit) {
  for (const Case& c : all_cases(kMaxTokens)) {
    const Inputs in = make_inputs(c);
    Outputs out(c);
    gather_cpu(c.shape, c.element_bytes, tensors(in, &out));
    ASSERT_TRUE(out == reference(c, in)) << c;
  }
}

TEST(GatherCpu, EqualsTheReferenceOnRandomShapes) {
  std::mt19937 random(7);
  const auto between = [&random](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  for (unsigned seed = 0; seed < 500; ++seed) {
    const std::int64_t tokens = between(1, 200);
    const Case c{{between(1, 4), tokens, between(1, tokens), between(1, 20)},
                 between(0, 1) == 0 ? std::size_t{2} : std::size_t{4},
                 kAllScores[static_cast<std::size_t>(between(0, static_cast<std::int64_t>(std::size(kAllScores)) - 1))],
                 seed};
    const Inputs in = make_inputs(c);
    Outputs out(c);
    gather_cpu(c.shape, c.element_bytes, tensors(in, &out));
    ASSERT_TRUE(out == reference(c, in)) << c;
  }
}

TEST(GatherCpu, TiesGoToTheLowerIndexAndNanTiesWithMinusInfinity) {
  const float nan = std::nanf("");
  const float inf = std::numeric_limits<float>::infinity();
  const auto keep = [](std::vector<float> scores, std::int64_t k) {
    const Case c{{1, static_cast<std::int64_t>(scores.size()), k, 1}, 4, Scores::kEqual};
    Inputs in = make_inputs(c);
    in.scores = std::move(scores);
    Outputs out(c);
    gather_cpu(c.shape, c.element_bytes, tensors(in, &out));
    return out.keep;
  };
  using List = std::vector<std::int64_t>;
  EXPECT_EQ(keep({5, 5, 5, 5}, 2), (List{0, 1}));
  EXPECT_EQ(keep({1, 5, 2, 5, 5}, 2), (List{1, 3}));
  EXPECT_EQ(keep({nan, -inf, nan, 1}, 2), (List{0, 3}));
  EXPECT_EQ(keep({-inf, nan, -1, 1}, 3), (List{0, 2, 3}));
  EXPECT_EQ(keep({-0.0f, 0.0f, -0.0f}, 1), (List{0}));
  EXPECT_EQ(keep({0, inf, nan, inf}, 1), (List{1}));
}

// A shape that must be refused, and what the message has to say.
struct Refused {
  std::vector<std::int64_t> hidden, scores, positions;
  std::int64_t k;
  const char* says;
};

TEST(Check, RefusesImpossibleShapes) {
  const Refused refused[] = {
      {{1, 4, 2}, {1, 4}, {1, 4}, 0, "k = 0; wanted: k of at least 1"},
      {{1, 4, 2}, {1, 4}, {1, 4}, -3, "k = -3"},
      {{1, 4, 2}, {1, 4}, {1, 4}, 5, "k = 5 of N = 4; wanted: 1 <= k <= N"},
      {{1, 0, 2}, {1, 0}, {1, 0}, 1, "k = 1 of N = 0"},
      {{4, 2}, {1, 4}, {1, 4}, 1, "hidden has a wrong rank; got: [4, 2]; wanted: [B, N, H]"},
      {{}, {}, {}, 1, "hidden has a wrong rank; got: []"},
      {{1, 4, 2}, {1, 3}, {1, 4}, 1, "scores do not fit hidden [1, 4, 2]; got: [1, 3]; wanted: [1, 4]"},
      {{2, 4, 2}, {1, 4}, {2, 4}, 1, "scores do not fit"},
      {{1, 4, 2}, {4}, {1, 4}, 1, "scores do not fit"},
      {{1, 4, 2}, {1, 4}, {1, 5}, 1, "positions do not fit hidden [1, 4, 2]; got: [1, 5]; wanted: [1, 4]"},
      {{1, 4, 2}, {1, 4}, {1, 4, 1}, 1, "positions do not fit"},
      {{1, kMaxTokens + 1, 2}, {1, kMaxTokens + 1}, {1, kMaxTokens + 1}, 1, "too many tokens"},
  };
  for (const Refused& shape : refused) {
    const Checked checked = check(shape.hidden, shape.scores, shape.positions, shape.k);
    EXPECT_NE(checked.error.find(shape.says), std::string::npos) << checked.error << " does not say " << shape.says;
  }
}

TEST(Check, TakesEveryPossibleShape) {
  const Checked checked = check({2, 4, 3}, {2, 4}, {2, 4}, 4);
  EXPECT_EQ(checked.error, "");
  EXPECT_EQ(checked.shape.batch, 2);
  EXPECT_EQ(checked.shape.tokens, 4);
  EXPECT_EQ(checked.shape.keep, 4);
  EXPECT_EQ(checked.shape.hidden, 3);
  EXPECT_EQ(check({0, 4, 0}, {0, 4}, {0, 4}, 1).error, "");
}

}  // namespace
}  // namespace ar::gather::testing
