// Planning: what an image of some size becomes under an image plan, before a pixel is read; as
// allrounder/images/planning.py, rounding included.
//
// What it knows: how the stock processors reckon sizes, and what one image may cost. What it does not know: pixels.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "contract/image_plan.hpp"

namespace ar::images {

// The largest image on the way from pixels to tiles. 768 MiB; a square of the longest panorama of 16,384 pixels.
inline constexpr int64_t kMostPixels = int64_t{1} << 28;

struct Pad {  // puts pixels of one colour around an image
  int64_t top = 0, bottom = 0, left = 0, right = 0;
  Color color{};
};
struct Resize {  // resizes an image with the plan's filter
  Extent to;
};
struct Crop {  // cuts a part out of an image
  int64_t top = 0, left = 0;
  Extent size;
};
using Step = std::variant<Pad, Resize, Crop>;

// The size of an image of size `from` after a step.
Extent after(const Step& step, const Extent& from);

// One way in which an image is looked at: what is done to it, and the grid of tiles that comes out.
struct View {
  std::vector<Step> steps;
  int64_t rows = 1, columns = 1;
};

struct Tiles {  // all tokens of some tiles, tile after tile
  int64_t first = 0, count = 0;
};
struct Grid {  // tokens of a grid of tiles, row by row over all of it, a newline token behind each row
  int64_t first = 0;  // tile
  Extent tiles;       // rows and columns of them
  Extent cut;         // rows of tokens left out above and below, and columns left and right
  Extent size;        // rows and columns of tokens, without newlines; fewer than there are where interpolated
};
struct Newline {};  // the newline token alone
using Source = std::variant<Tiles, Grid, Newline>;
using Content = std::vector<std::variant<std::string, int64_t>>;

// What an image becomes.
struct PlannedImage {
  std::vector<View> views;      // their tiles, one view after the other
  std::vector<Source> sources;  // where the image tokens come from, in their order
  Content content;              // in place of the placeholder: text, and how many image tokens

  int64_t tiles() const;
  int64_t tokens() const;  // N_i
};

// Returns what the images of one prompt become. `plan` has passed check_image_plan, `sizes` those of runtime/image.hpp.
// Throws AR_IMAGE_INVALID: an image is too narrow for the plan, or would become more pixels or tokens than one may.
std::vector<PlannedImage> plan_images(const ImagePlan& plan, const std::vector<Extent>& sizes);

}  // namespace ar::images
