// Prompt layouts and keep rules; Python answers the same in tests/native/test_contract_parity.py.
#include "contract/layout.hpp"

#include <cmath>
#include <limits>

#include "scratch.hpp"

namespace {

using Row = std::vector<int64_t>;
using scratch::refused;

constexpr int64_t kImage = 9;

TEST(Layout, ImageTokensStandWhereTheirPlaceholderStood) {
  const ar::PromptLayout layout = ar::sequential_layout({1, kImage, 2, kImage, kImage, 3}, kImage,
                                                         {Row(2, kImage), Row(1, kImage), Row(3, kImage)});
  EXPECT_EQ(layout.input_ids, (Row{1, 9, 9, 2, 9, 9, 9, 9, 3}));
  EXPECT_EQ(layout.image_index, (Row{1, 2, 4, 5, 6, 7}));
  EXPECT_EQ(layout.image_of, (Row{0, 0, 1, 2, 2, 2}));
  EXPECT_EQ(layout.position_ids, (std::vector<Row>{{0, 1, 2, 3, 4, 5, 6, 7, 8}}));
  EXPECT_EQ(layout.next_position, 9);
  EXPECT_EQ(layout.text_ids(), (Row{1, 2, 3}));
  EXPECT_EQ(layout.text_tokens(), 3);
  EXPECT_EQ(ar::keep_counts(layout, {1, 2}), (Row{1, 1, 2}));
  EXPECT_EQ(ar::keep_counts(layout, {2, 1}), (Row{2, 1, 2}));
}

TEST(Layout, TextAroundAnImagesTokensIsText) {
  const ar::PromptLayout layout = ar::sequential_layout({1, kImage, 2}, kImage, {{5, kImage, kImage, 6, kImage, 5}});
  EXPECT_EQ(layout.input_ids, (Row{1, 5, 9, 9, 6, 9, 5, 2}));
  EXPECT_EQ(layout.image_index, (Row{2, 3, 5}));
  EXPECT_EQ(layout.tokens_by_image, (Row{3}));
  EXPECT_EQ(layout.text_ids(), (Row{1, 5, 6, 5, 2}));
}

TEST(Layout, ATextAloneHasNoImageTokens) {
  const ar::PromptLayout layout = ar::sequential_layout({1, 2}, kImage, {});
  EXPECT_EQ(layout.text_ids(), (Row{1, 2}));
  EXPECT_EQ(layout.image_tokens(), 0);
  EXPECT_TRUE(ar::keep_counts(layout, {1, 4}).empty());
}

TEST(Layout, PlaceholdersAndImagesMustMatchAndTextMustEnd) {
  const Row one = {kImage};
  for (const std::vector<Row>& images : {std::vector<Row>{}, std::vector<Row>{one, one}})
    refused(AR_INPUT_INVALID, "do not match", [&] { ar::sequential_layout({1, kImage, 2}, kImage, images); });
  refused(AR_INPUT_INVALID, "an image at its end",
          [&] { ar::sequential_layout({1, kImage}, kImage, std::vector<Row>{one}); });
  refused(AR_INPUT_INVALID, "nothing", [&] { ar::sequential_layout({}, kImage, {}); });
}

TEST(Keep, SharesAreRoundedHalfUpAndGiveAtLeastOne) {
  const ar::Keep all{}, half{1, 2}, tiny{1, 9'999'999'999};
  EXPECT_EQ(all.of(576), 576);
  EXPECT_EQ(half.of(5), 3);
  EXPECT_EQ((ar::Keep{11, 36}).of(576), 176);
  EXPECT_EQ(tiny.of(576), 1);
  EXPECT_EQ(tiny.of(0), 0);
  EXPECT_EQ((ar::Keep{144, 1}).of(100), 100);
  const int64_t most = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(all.of(most), most);
  EXPECT_EQ(half.of(most), most / 2 + 1);
  EXPECT_EQ((ar::Keep{999'999'999, 1'000'000'000}).of(most), 9223372027631403770);
}

TEST(Keep, ARequestAsksForAShareACountOrAll) {
  const auto asked = [](double value) {
    const ar::Keep keep = ar::requested_keep(value);
    return std::to_string(keep.numerator) + "/" + std::to_string(keep.denominator);
  };
  EXPECT_EQ(asked(1), "1/1");
  EXPECT_EQ(asked(0.4), "2/5");
  EXPECT_EQ(asked(1.0 / 3), "333333333/1000000000");
  EXPECT_EQ(asked(0.9999999999), "1/1");
  EXPECT_EQ(asked(2), "2/1");
  EXPECT_EQ(asked(999'999'999), "999999999/1");
  for (const double value : {0.0, -0.25, 1e-10, 1.5, 1e9, -2.0, std::nan(""), HUGE_VAL})
    refused(AR_INVALID_BUDGET, "impossible keep rule", [&] { ar::requested_keep(value); });
}

}  // namespace
