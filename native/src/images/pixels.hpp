// From an RGB image to tiles, as the stock processors cut them; as runtime/pixels.py.
#pragma once

#include <cstdint>
#include <vector>

#include "images/planning.hpp"
#include "images/resample.hpp"

namespace ar::images {

// Returns the tiles of an image, uint8 [tiles, S, S, 3]. `planned` is what plan_images says of an image of this size.
std::vector<uint8_t> cut_tiles(const ImagePlan& plan, const PlannedImage& planned, const Rgb8View& image);

}  // namespace ar::images
