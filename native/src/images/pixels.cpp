#include "images/pixels.hpp"

#include <algorithm>
#include <utility>

namespace ar::images {
namespace {

// Copies `size` out of rows that are `in_stride` pixels apart to rows that are `out_stride` apart.
void copy(const uint8_t* in, int64_t in_stride, const Extent& size, uint8_t* out, int64_t out_stride) {
  for (int64_t row = 0; row < size.height; ++row)
    std::copy_n(in + row * in_stride * 3, size.width * 3, out + row * out_stride * 3);
}

Rgb8 blank(const Extent& size) { return {size, std::vector<uint8_t>(static_cast<std::size_t>(size.area() * 3))}; }

Rgb8 done(const Pad& pad, const Rgb8View& image, const ImagePlan&) {
  Rgb8 padded = blank(after(pad, image.size));
  for (std::size_t at = 0; at < padded.bytes.size(); at += 3) std::copy_n(pad.color.data(), 3, &padded.bytes[at]);
  uint8_t* first = padded.bytes.data() + (pad.top * padded.size.width + pad.left) * 3;
  copy(image.bytes, image.size.width, image.size, first, padded.size.width);
  return padded;
}

Rgb8 done(const Resize& resize, const Rgb8View& image, const ImagePlan& plan) {
  return resized(image, resize.to, plan.filter);
}

Rgb8 done(const Crop& crop, const Rgb8View& image, const ImagePlan&) {
  Rgb8 cut = blank(crop.size);
  const uint8_t* first = image.bytes + (crop.top * image.size.width + crop.left) * 3;
  copy(first, image.size.width, crop.size, cut.bytes.data(), crop.size.width);
  return cut;
}

// Writes the tiles of a view, and returns where the next one's begin.
uint8_t* cut_view(const ImagePlan& plan, const View& view, Rgb8View image, uint8_t* out) {
  Rgb8 last;
  for (const Step& step : view.steps) {
    last = std::visit([&](const auto& known) { return done(known, image, plan); }, step);
    image = {last.size, last.bytes.data()};
  }
  const int64_t side = plan.size, wide = view.columns * side;
  for (int64_t row = 0; row < view.rows; ++row) {
    for (int64_t column = 0; column < view.columns; ++column) {
      copy(image.bytes + (row * wide + column) * side * 3, wide, {side, side}, out, side);
      out += side * side * 3;
    }
  }
  return out;
}

}  // namespace

std::vector<uint8_t> cut_tiles(const ImagePlan& plan, const PlannedImage& planned, const Rgb8View& image) {
  std::vector<uint8_t> tiles(static_cast<std::size_t>(planned.tiles() * plan.size * plan.size * 3));
  uint8_t* out = tiles.data();
  for (const View& view : planned.views) out = cut_view(plan, view, image, out);
  return tiles;
}

}  // namespace ar::images
