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

Outputs run(const Case& c, const Inputs& in) {
  const Choice choice = choose(c.shape(), in.candidates());
  EXPECT_EQ(choice.error, "") << c;
  Outputs out = room(c, static_cast<std::int64_t>(choice.keep.size()));
  EXPECT_EQ(kept_rows(c.shape(), choice) * c.batch * c.axes, static_cast<std::int64_t>(out.position_ids.size())) << c;
  gather_cpu(c.shape(), choice, c.element_bytes, tensors(in, &out));
  return out;
}

TEST(GatherCpu, EqualsTheReferenceBitForBit) {
  for (const Case& c : all_cases(kMaxRows)) {
    const Inputs in = make_inputs(c);
    ASSERT_TRUE(run(c, in) == reference(c, in)) << c;
  }
}

TEST(GatherCpu, EqualsTheReferenceOnRandomShapes) {
  std::mt19937 random(7);
  const auto between = [&random](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  for (unsigned seed = 0; seed < 500; ++seed) {
    Case c;
    for (std::int64_t image = between(0, 4); image > 0; --image) {
      c.tokens_of.push_back(between(0, 100));
      c.keep_counts.push_back(between(0, c.tokens_of.back()));
    }
    c.text = between(0, 40);
    c.hidden = between(0, 20);
    c.element_bytes = between(0, 1) == 0 ? 2 : 4;
    c.scores = kAllScores[static_cast<std::size_t>(between(0, static_cast<std::int64_t>(std::size(kAllScores)) - 1))];
    c.axes = between(1, 3);
    c.seed = seed;
    const Inputs in = make_inputs(c);
    ASSERT_TRUE(run(c, in) == reference(c, in)) << c;
  }
}

TEST(Choose, TiesGoToTheLowerIndexAndNanTiesWithMinusInfinity) {
  const float nan = std::nanf("");
  const float inf = std::numeric_limits<float>::infinity();
  const auto keep = [](std::vector<float> scores, std::int64_t k) {
    const auto tokens = static_cast<std::int64_t>(scores.size());
    const Case c{{tokens}, {k}};
    Inputs in = make_inputs(c);
    in.scores = std::move(scores);
    return choose(c.shape(), in.candidates()).keep;
  };
  using List = std::vector<std::int64_t>;
  EXPECT_EQ(keep({5, 5, 5, 5}, 2), (List{0, 1}));
  EXPECT_EQ(keep({1, 5, 2, 5, 5}, 2), (List{1, 3}));
  EXPECT_EQ(keep({nan, -inf, nan, 1}, 2), (List{0, 3}));
  EXPECT_EQ(keep({-inf, nan, -1, 1}, 3), (List{0, 2, 3}));
  EXPECT_EQ(keep({-0.0f, 0.0f, -0.0f}, 1), (List{0}));
  EXPECT_EQ(keep({0, inf, nan, inf}, 1), (List{1}));
}

TEST(Choose, EachImageKeepsItsOwn) {
  const std::vector<float> scores{1, 9, 8, 2, 3, 7};
  const std::vector<std::int64_t> index{0, 2, 3, 6, 7, 8}, of{1, 0, 0, 1, 1, 0}, counts{1, 2};
  const Choice choice = choose({1, 10, 4, 1, 6, 2}, {scores.data(), index.data(), of.data(), counts.data()});
  EXPECT_EQ(choice.keep, (std::vector<std::int64_t>{1, 3, 4}));
  EXPECT_EQ(choice.rows, (std::vector<std::int64_t>{1, 2, 4, 5, 6, 7, 9}));
}

TEST(Choose, TheFirstTokensAndRowsAreChosenWithoutValues) {
  const Choice first = choose_first({1, 12, 4, 1, 8, 2}, 2);
  EXPECT_EQ(first.keep, (std::vector<std::int64_t>{0, 1}));
  EXPECT_EQ(first.rows, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5}));
  for (const Case& c : {Case{{5, 3}, {5, 3}, 4}, Case{{}, {}, 4}}) {
    const Choice all = choose_first(c.shape(), c.shape().tokens);
    const Choice chosen = choose(c.shape(), make_inputs(c).candidates());
    EXPECT_EQ(all.keep, chosen.keep);
    EXPECT_EQ(all.rows, chosen.rows);
  }
}

TEST(Choose, RefusesImpossibleValues) {
  const struct {
    std::vector<std::int64_t> index, of, counts;
    const char* says;
  } refused[] = {
      {{1, 2, 2}, {0, 0, 1}, {1, 1}, "image_index[2] = 2; wanted: 3 to 4"},
      {{2, 1, 3}, {0, 0, 1}, {1, 1}, "image_index is not ascending below S; got: image_index[1] = 1; wanted: 3 to 4"},
      {{-1, 1, 3}, {0, 0, 1}, {1, 1}, "image_index[0] = -1; wanted: 0 to 4"},
      {{0, 1, 5}, {0, 0, 1}, {1, 1}, "image_index[2] = 5; wanted: 2 to 4"},
      {{0, 1, std::numeric_limits<std::int64_t>::max()}, {0, 0, 1}, {1, 1}, "image_index[2] = 9223372036854775807"},
      {{0, 1, 2}, {0, 0, 2}, {1, 1}, "image_of[2] = 2; wanted: 0 or more, below I = 2"},
      {{0, 1, 2}, {0, -1, 1}, {1, 1}, "image_of names no image; got: image_of[1] = -1"},
      {{0, 1, 2}, {0, 0, 1}, {}, "image_of[0] = 0; wanted: 0 or more, below I = 0"},
      {{0, 1, 2}, {0, 0, 1}, {3, 1}, "keep_counts[0] = 3; wanted: 0 to 2, the image's tokens"},
      {{0, 1, 2}, {0, 0, 1}, {1, -1}, "keep_counts[1] = -1; wanted: 0 to 1"},
      {{}, {}, {1}, "keep_counts[0] = 1; wanted: 0 to 0"},
  };
  const std::vector<float> scores{1, 2, 3};
  for (const auto& each : refused) {
    const Shape shape{1, 5, 4, 1, static_cast<std::int64_t>(each.index.size()),
                      static_cast<std::int64_t>(each.counts.size())};
    const Choice choice = choose(shape, {scores.data(), each.index.data(), each.of.data(), each.counts.data()});
    EXPECT_NE(choice.error.find(each.says), std::string::npos) << choice.error << " does not say " << each.says;
    EXPECT_EQ(choice.error.rfind("TokenGather: ", 0), 0u) << choice.error;
    EXPECT_TRUE(choice.keep.empty());
  }
}

TEST(Check, RefusesImpossibleShapes) {
  const struct {
    std::array<Dims, kInputs.size()> inputs;
    const char* says;
  } refused[] = {
      {{{{4, 2}, {1, 1, 4}, {3}, {3}, {3}, {1}}}, "hidden has a wrong rank; got: [4, 2]; wanted: [B, S, H]"},
      {{{{}, {1, 1, 4}, {3}, {3}, {3}, {1}}}, "hidden has a wrong rank; got: []"},
      {{{{1, 4, 2}, {1, 4}, {3}, {3}, {3}, {1}}}, "position_ids has a wrong rank; got: [1, 4]; wanted: [A, B, S]"},
      {{{{1, 4, 2}, {1, 1, 4}, {1, 3}, {3}, {3}, {1}}}, "scores has a wrong rank; got: [1, 3]; wanted: [N]"},
      {{{{1, 4, 2}, {1, 1, 4}, {3}, {3}, {3}, {}}}, "keep_counts has a wrong rank; got: []; wanted: [I]"},
      {{{{1, 4, 2}, {3, 1, 5}, {3}, {3}, {3}, {1}}}, "position_ids do not fit hidden [1, 4, 2]; got: [3, 1, 5]"},
      {{{{1, 4, 2}, {3, 2, 4}, {3}, {3}, {3}, {1}}}, "wanted: [3, 1, 4]"},
      {{{{1, 4, 2}, {1, 1, 4}, {3}, {2}, {3}, {1}}}, "image_index does not fit scores [3]; got: [2]; wanted: [3]"},
      {{{{1, 4, 2}, {1, 1, 4}, {3}, {3}, {4}, {1}}}, "image_of does not fit scores [3]; got: [4]; wanted: [3]"},
      {{{{2, 4, 2}, {1, 2, 4}, {3}, {3}, {3}, {1}}}, "image tokens in a batch; got: N = 3, B = 2; wanted: B = 1"},
      {{{{1, 4, 2}, {1, 1, 4}, {5}, {5}, {5}, {1}}}, "too many rows; got: S = 4, N = 5; wanted: N <= S"},
      {{{{1, kMaxRows + 1, 2}, {1, 1, kMaxRows + 1}, {3}, {3}, {3}, {1}}}, "too many rows"},
  };
  for (const auto& each : refused) {
    const Checked checked = check(each.inputs);
    EXPECT_NE(checked.error.find(each.says), std::string::npos) << checked.error << " does not say " << each.says;
    EXPECT_EQ(checked.error.rfind("TokenGather: ", 0), 0u) << checked.error;
  }
}

TEST(Check, ReturnsTheShape) {
  const Checked checked = check({{{1, 576, 8}, {3, 1, 576}, {570}, {570}, {570}, {2}}});
  EXPECT_EQ(checked.error, "");
  EXPECT_EQ(checked.shape.rows, 576);
  EXPECT_EQ(checked.shape.axes, 3);
  EXPECT_EQ(checked.shape.tokens, 570);
  EXPECT_EQ(checked.shape.images, 2);
  EXPECT_EQ(check({{{7, 1, 8}, {1, 7, 1}, {0}, {0}, {0}, {0}}}).error, "");  // new tokens
}

}  // namespace
}  // namespace ar::gather::testing
