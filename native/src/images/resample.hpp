// Resizing of RGB images as Pillow does it, byte for byte.
//
// What it knows: Pillow's filters, its fixed-point weights, and the order of its two passes.
#pragma once

#include <cstdint>
#include <vector>

#include "contract/image_plan.hpp"

namespace ar::images {

struct Rgb8 {  // uint8 [height, width, 3]
  Extent size;
  std::vector<uint8_t> bytes;
};

struct Rgb8View {  // the same, in somebody else's memory
  Extent size;
  const uint8_t* bytes = nullptr;
};

// Says whether columns are filtered before rows are: where far more height than width goes. Source:
// `horizontal_first` in https://github.com/python-pillow/Pillow/blob/13.0.0/src/libImaging/Resample.c; older releases
// have other orders (export/resizing.py).
bool columns_first(const Extent& from, const Extent& to);

// Returns an image of another size; a pass over an axis that keeps its length changes nothing.
Rgb8 resized(const Rgb8View& image, const Extent& to, Filter filter);

}  // namespace ar::images
