// Images: rows of any stride, and the limits.
#include "runtime/image.hpp"

#include <gtest/gtest.h>

#include "world.hpp"

namespace ar {
namespace {

std::vector<uint8_t> dense(const Image& image) {
  const Rgb rgb(image);
  return {rgb.bytes(), rgb.bytes() + 3 * image.width * image.height};
}

TEST(Image, DenseRowsAreNotCopied) {
  const std::vector<uint8_t> pixels = test::image(5, 4);
  for (const int64_t row_bytes : {0, 15}) {
    const Rgb rgb({pixels.data(), 5, 4, row_bytes});
    EXPECT_EQ(rgb.bytes(), pixels.data());
  }
}

TEST(Image, RowsWithGapsAndRowsThatGoUpAreMadeDense) {
  const std::vector<uint8_t> pixels = test::image(5, 4);
  std::vector<uint8_t> gaps(4 * 20, 0xee), upwards;
  for (std::size_t row = 0; row < 4; ++row) {
    const auto first = pixels.begin() + static_cast<std::ptrdiff_t>(15 * row);
    std::copy(first, first + 15, gaps.begin() + static_cast<std::ptrdiff_t>(20 * row));
    upwards.insert(upwards.begin(), first, first + 15);
  }
  EXPECT_EQ(dense({gaps.data(), 5, 4, 20}), pixels);
  EXPECT_EQ(dense({upwards.data() + 45, 5, 4, -15}), pixels);
}

TEST(Image, TheLastRowsGapIsNotRead) {
  const std::vector<uint8_t> exact = test::image(4, 1);  // the address sanitizer sees more
  std::vector<uint8_t> two(16 + 12);
  std::copy(exact.begin(), exact.end(), two.begin() + 16);
  EXPECT_EQ(dense({two.data(), 4, 2, 16}).size(), 24u);
}

TEST(Image, ImpossibleOnesAreRefused) {
  const std::vector<uint8_t> pixels = test::image(8, 8);
  const int64_t most = std::numeric_limits<int64_t>::max();
  for (const Image& bad :
       {Image{nullptr, 8, 8, 0}, Image{pixels.data(), 0, 8, 0}, Image{pixels.data(), 8, -1, 0},
        Image{pixels.data(), kMaxPixels, 2, 0}, Image{pixels.data(), most, most, 0}, Image{pixels.data(), 201, 1, 0},
        Image{pixels.data(), 1, 201, 0}, Image{pixels.data(), 8, 8, 23}, Image{pixels.data(), 8, 8, -23}}) {
    EXPECT_EQ(test::status_of([&] { Rgb{bad}; }), AR_IMAGE_INVALID) << bad.width << " x " << bad.height;
  }
}

}  // namespace
}  // namespace ar
