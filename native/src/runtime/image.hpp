// From a program's image to dense RGB: the limits of runtime/image.py.
#pragma once

#include <cstdint>
#include <vector>

namespace ar {

inline constexpr int64_t kMaxPixels = int64_t{1} << 26;  // twice what a phone takes
inline constexpr int64_t kMaxAspect = 200;  // longer side over the shorter; beyond it resizing blows up the longer one

struct Image {
  const uint8_t* rgb = nullptr;  // the first row; 3 bytes per pixel: red, green, blue
  int64_t width = 0, height = 0;
  int64_t row_bytes = 0;  // from one row to the next, negative where they go up; 0: 3 * width
};

// An image as uint8 [height, width, 3], dense. It points to the program's own pixels where they are dense, and holds a
// copy where they are not: it lives within the step that reads them.
class Rgb {
 public:
  explicit Rgb(const Image& image);  // throws AR_IMAGE_INVALID
  const uint8_t* bytes() const { return bytes_; }

 private:
  std::vector<uint8_t> copy_;
  const uint8_t* bytes_ = nullptr;
};

}  // namespace ar
