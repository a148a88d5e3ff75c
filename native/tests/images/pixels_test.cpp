// Pixels and tokens: sums by hand, and what is left as it is. Pillow's bytes: tests/native/test_image_parity.py.
#include "images/pixels.hpp"

#include <numeric>

#include "images/sources.hpp"
#include "small_plans.hpp"

namespace {

using namespace small;
using Bytes = std::vector<uint8_t>;

Bytes counted(const Extent& size) {
  Bytes bytes(static_cast<std::size_t>(size.area() * 3));
  std::iota(bytes.begin(), bytes.end(), uint8_t{0});
  return bytes;
}

Bytes resized_bytes(const Bytes& bytes, const Extent& size, const Extent& to, Filter filter) {
  return resized({size, bytes.data()}, to, filter).bytes;
}

TEST(Resize, SumsAreRoundedHalfUpAndClipped) {
  EXPECT_EQ(resized_bytes({0, 10, 255, 1, 11, 255}, {1, 2}, {1, 1}, Filter::kBilinear), (Bytes{1, 11, 255}));
  const Bytes edge = resized_bytes({0, 0, 0, 255, 255, 255}, {1, 2}, {1, 8}, Filter::kBicubic);
  EXPECT_EQ(edge.front(), 0);  // less than 0 before it is clipped
  EXPECT_EQ(edge.back(), 255);
}

TEST(Resize, AnImageOfOnePixelIsThatPixelEverywhere) {
  for (const Filter filter : {Filter::kBilinear, Filter::kBicubic, Filter::kLanczos}) {
    const Bytes bytes = resized_bytes({7, 77, 177}, {1, 1}, {5, 30}, filter);
    ASSERT_EQ(bytes.size(), 450u);
    for (std::size_t at = 0; at < bytes.size(); ++at) EXPECT_EQ(bytes[at], (Bytes{7, 77, 177}[at % 3]));
  }
}

TEST(Resize, AnImageOfTheSameSizeIsLeftAsItIs) {
  const Bytes bytes = counted({9, 11});
  EXPECT_EQ(resized_bytes(bytes, {9, 11}, {9, 11}, Filter::kLanczos), bytes);
}

TEST(Resize, AnImageOf200To1LosesAllButOnePixel) {
  const Bytes white(600, 255);
  EXPECT_EQ(resized_bytes(white, {1, 200}, {1, 1}, Filter::kLanczos), (Bytes{255, 255, 255}));
  EXPECT_EQ(resized_bytes(white, {200, 1}, {1, 1}, Filter::kLanczos), (Bytes{255, 255, 255}));
}

TEST(Resize, ColumnsComeFirstWhereMoreThanTwiceAsMuchHeightAsWidthGoes) {
  EXPECT_FALSE(columns_first({24, 16}, {8, 8}));
  EXPECT_TRUE(columns_first({25, 16}, {8, 8}));
  EXPECT_TRUE(columns_first({9, 4}, {8, 8}));
  EXPECT_FALSE(columns_first({8, 4}, {8, 8}));
}

TEST(Tiles, AreCutRowByRow) {
  const ImagePlan grid = plan(NearestAspect{1, 6, "", ""}, 2, 1);
  const Extent size{4, 6};
  const Bytes bytes = counted(size), tiles = cut_tiles(grid, planned(grid, size), {size, bytes.data()});
  ASSERT_EQ(tiles.size(), 7u * 12);
  EXPECT_EQ(Bytes(tiles.begin(), tiles.begin() + 12), (Bytes{0, 1, 2, 3, 4, 5, 18, 19, 20, 21, 22, 23}));
  EXPECT_EQ(tiles[12], 6);       // the second tile of the first row
  EXPECT_EQ(tiles[36], 2 * 18);  // the first one of the second row
}

TEST(Tiles, ArePaddedAndCutInTheMiddle) {
  const ImagePlan square = plan(Fixed{Color{9, 8, 7}, {}}, 3, 1);
  const Bytes row = counted({1, 3}), padded = cut_tiles(square, planned(square, {1, 3}), {{1, 3}, row.data()});
  EXPECT_EQ(Bytes(padded.begin(), padded.begin() + 12), (Bytes{9, 8, 7, 9, 8, 7, 9, 8, 7, 0, 1, 2}));
  const ImagePlan middle = plan(Fixed{{}, 1}, 1, 1);
  EXPECT_EQ(cut_tiles(middle, planned(middle, {1, 3}), {{1, 3}, row.data()}), (Bytes{3, 4, 5}));
}

TEST(TokenSources, CountOverAllImagesAndEndEachRowWithTheNewline) {
  const ImagePlan canvas = plan(Canvases{{{2, 4}}, {}, {}}, 2, 4);
  const TokenSources sources = token_sources(canvas, {planned(canvas, {2, 4}), planned(canvas, {2, 4})});
  ASSERT_EQ(sources.rows.size(), 28u);  // of each the whole, and two rows of four and a newline
  std::vector<int64_t> rows;
  for (const auto& row : sources.rows) rows.push_back(row[0]);
  EXPECT_EQ(std::vector<int64_t>(rows.begin() + 14, rows.end()),
            (std::vector<int64_t>{12, 13, 14, 15, 16, 17, 20, 21, 24, 18, 19, 22, 23, 24}));
  for (const auto& weights : sources.weights) EXPECT_EQ(weights, (std::array<float, 4>{1, 0, 0, 0}));
}

TEST(TokenSources, WeightsAddUpWhereTheCanvasIsInterpolated) {
  const TokenSources sources = token_sources(kCanvases, {planned(kCanvases, {48, 48})});
  bool mixed = false;
  for (const auto& weights : sources.weights) {
    EXPECT_NEAR(weights[0] + weights[1] + weights[2] + weights[3], 1, 1e-6);
    mixed |= weights[3] > 0;
  }
  EXPECT_TRUE(mixed);
}

}  // namespace
