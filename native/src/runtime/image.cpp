#include "runtime/image.hpp"

#include <algorithm>
#include <cstddef>
#include <string>

#include "contract/error.hpp"

namespace ar {
namespace {

void check(const Image& image) {
  const std::string got = std::to_string(image.width) + " x " + std::to_string(image.height);
  if (image.rgb == nullptr) throw Error(AR_IMAGE_INVALID, "there is no image", {"rgb", "NULL", "its first row", ""});
  if (image.width < 1 || image.height < 1) {
    throw Error(AR_IMAGE_INVALID, "the image is empty", {"", got, "at least one pixel", ""});
  }
  if (image.width > kMaxPixels / image.height) {
    throw Error(AR_IMAGE_INVALID, "the image is too large",
                {"", got, "up to " + std::to_string(kMaxPixels) + " pixels", ""});
  }
  if (std::max(image.width, image.height) > kMaxAspect * std::min(image.width, image.height)) {
    throw Error(AR_IMAGE_INVALID, "the image is too narrow",
                {"", got, "up to " + std::to_string(kMaxAspect) + " : 1", ""});
  }
  const int64_t row = 3 * image.width;
  if (image.row_bytes != 0 && image.row_bytes < row && image.row_bytes > -row) {
    throw Error(AR_IMAGE_INVALID, "the image's rows overlap",
                {"row_bytes", std::to_string(image.row_bytes), "at least 3 * width, " + std::to_string(row), ""});
  }
}

}  // namespace

Rgb::Rgb(const Image& image) : bytes_(image.rgb) {
  check(image);
  const int64_t row = 3 * image.width;
  if (image.row_bytes == 0 || image.row_bytes == row) return;
  copy_.reserve(static_cast<std::size_t>(row * image.height));
  for (int64_t y = 0; y < image.height; ++y) {
    const uint8_t* first = image.rgb + y * image.row_bytes;
    copy_.insert(copy_.end(), first, first + row);
  }
  bytes_ = copy_.data();
}

}  // namespace ar
