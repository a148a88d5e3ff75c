// Each byte of a resized image is a weighted sum of bytes along one axis: a filter, stretched where the image shrinks,
// over the pixels around the place from which the new one comes. Weights add up to 1; they are reckoned in double and
// rounded to 22 bits behind the point. Sums are rounded and clipped to a byte after each axis.
#include "images/resample.hpp"

#include <algorithm>
#include <cmath>

namespace ar::images {
namespace {

constexpr int kBits = 22;
constexpr double kPi = 3.14159265358979323846;

double bilinear(double x) { return std::max(1 - std::abs(x), 0.0); }

double bicubic(double x) {  // Keys' kernel, a = -0.5, in Pillow's order of operations
  const double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

double sinc(double x) { return x == 0 ? 1 : std::sin(x * kPi) / (x * kPi); }

double lanczos(double x) { return -3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0; }

struct Kernel {
  double (*value)(double);
  double reach;  // to each side, pixels of an image that does not shrink
};

Kernel kernel_of(Filter filter) {
  if (filter == Filter::kBilinear) return {bilinear, 1};
  if (filter == Filter::kBicubic) return {bicubic, 2};
  return {lanczos, 3};
}

// What one pixel of the new axis is made of.
struct Window {
  int64_t first = 0;             // pixel of the old axis
  std::vector<int32_t> weights;  // of that one and those behind it
};

Window window_at(int64_t place, int64_t from, double scale, const Kernel& kernel) {
  const double stretch = std::max(scale, 1.0), reach = kernel.reach * stretch;
  const double centre = (static_cast<double>(place) + 0.5) * scale;
  const auto first = std::max<int64_t>(static_cast<int64_t>(centre - reach + 0.5), 0);
  const auto end = std::min<int64_t>(static_cast<int64_t>(centre + reach + 0.5), from);
  std::vector<double> exact;
  double sum = 0;
  for (int64_t at = first; at < end; ++at) {
    exact.push_back(kernel.value((static_cast<double>(at) - centre + 0.5) * (1 / stretch)));
    sum += exact.back();
  }
  Window window{first, {}};
  for (double weight : exact) {
    if (sum != 0) weight /= sum;
    weight *= 1 << kBits;
    window.weights.push_back(static_cast<int32_t>(weight < 0 ? weight - 0.5 : weight + 0.5));
  }
  return window;
}

std::vector<Window> windows(int64_t from, int64_t to, const Kernel& kernel) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  std::vector<Window> made;
  for (int64_t place = 0; place < to; ++place) made.push_back(window_at(place, from, scale, kernel));
  return made;
}

// Writes `count` bytes, each the weighted sum of bytes that are `stride` apart.
template <int count>
void sum(const uint8_t* in, int64_t stride, const Window& window, uint8_t* out) {
  int32_t sums[count];
  for (int at = 0; at < count; ++at) sums[at] = 1 << (kBits - 1);
  for (const int32_t weight : window.weights) {
    for (int at = 0; at < count; ++at) sums[at] += in[at] * weight;
    in += stride;
  }
  for (int at = 0; at < count; ++at) out[at] = static_cast<uint8_t>(std::clamp(sums[at] >> kBits, 0, 255));
}

constexpr int kLanes = 48;  // bytes that are summed side by side: what 16 rows of a column have

// Makes lines of `length` bytes out of lines, a window each.
void sum_lines(const uint8_t* in, int64_t length, const std::vector<Window>& lines, uint8_t* out) {
  for (const Window& window : lines) {
    const uint8_t* first = in + window.first * length;
    int64_t at = 0;
    for (; at + kLanes <= length; at += kLanes) sum<kLanes>(first + at, length, window, out + at);
    for (; at < length; ++at) sum<1>(first + at, length, window, out + at);
    out += length;
  }
}

Rgb8 with_height(const Rgb8View& image, int64_t height, const Kernel& kernel) {
  Rgb8 made{{height, image.size.width}, {}};
  made.bytes.resize(static_cast<std::size_t>(made.size.area() * 3));
  sum_lines(image.bytes, image.size.width * 3, windows(image.size.height, height, kernel), made.bytes.data());
  return made;
}

// Copies [rows, columns, 3] as [columns, rows, 3]; rows of `in` and of `out` are that many bytes apart.
void transpose(const uint8_t* in, int64_t in_stride, Extent size, uint8_t* out, int64_t out_stride) {
  for (int64_t column = 0; column < size.width; ++column)
    for (int64_t row = 0; row < size.height; ++row)
      for (int64_t color = 0; color < 3; ++color)
        out[column * out_stride + row * 3 + color] = in[row * in_stride + column * 3 + color];
}

// Takes a few rows at a time, as columns: what is summed then lies side by side.
Rgb8 with_width(const Rgb8View& image, int64_t width, const Kernel& kernel) {
  const auto [height, old] = image.size;
  Rgb8 made{{height, width}, std::vector<uint8_t>(static_cast<std::size_t>(height * width * 3))};
  const std::vector<Window> columns = windows(old, width, kernel);
  std::vector<uint8_t> before(static_cast<std::size_t>(old * kLanes)), behind(static_cast<std::size_t>(width * kLanes));
  for (int64_t row = 0; row < height; row += kLanes / 3) {
    const int64_t rows = std::min<int64_t>(kLanes / 3, height - row);
    transpose(image.bytes + row * old * 3, old * 3, {rows, old}, before.data(), kLanes);
    sum_lines(before.data(), kLanes, columns, behind.data());
    transpose(behind.data(), kLanes, {width, rows}, made.bytes.data() + row * width * 3, width * 3);
  }
  return made;
}

}  // namespace

bool columns_first(const Extent& from, const Extent& to) {
  const int64_t lost = from.height - to.height;
  return lost > 0 && lost > 2 * (from.width - to.width);
}

Rgb8 resized(const Rgb8View& image, const Extent& to, Filter filter) {
  const Kernel kernel = kernel_of(filter);
  Rgb8 made;
  Rgb8View last = image;
  const auto keep = [&made, &last](Rgb8 next) {
    made = std::move(next);
    last = {made.size, made.bytes.data()};
  };
  const auto columns = [&] {
    if (last.size.height != to.height) keep(with_height(last, to.height, kernel));
  };
  const bool early = columns_first(image.size, to);
  if (early) columns();
  if (last.size.width != to.width) keep(with_width(last, to.width, kernel));
  if (!early) columns();
  if (made.bytes.empty()) made = {image.size, {image.bytes, image.bytes + image.size.area() * 3}};
  return made;
}

}  // namespace ar::images
