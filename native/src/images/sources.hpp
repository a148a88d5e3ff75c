// Where image tokens come from in the rows of the vision tower; as token_sources of runtime/pixels.py.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "images/planning.hpp"

namespace ar::images {

// Each image token as a weighted sum of rows: those of all tiles one after the other, and the newline's last.
struct TokenSources {
  std::vector<std::array<int64_t, 4>> rows;   // [N, 4]
  std::vector<std::array<float, 4>> weights;  // [N, 4]
};

// Returns where the image tokens of one prompt come from. Rows are counted over the tiles of all images, the plan's
// tokens each.
TokenSources token_sources(const ImagePlan& plan, const std::vector<PlannedImage>& images);

}  // namespace ar::images
