// The image plan of a model: how images become tiles and image tokens; the records of allrounder/images/plan.py.
//
// What it is: plain data, and its reading from the manifest. What it knows: which keys exist, and which values make
// sense. What it does not know: any image.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "contract/json_reader.hpp"

namespace ar::images {

inline constexpr int64_t kMostSide = 4096;       // of an image that is resized by its longest edge, pixels
inline constexpr int64_t kMostTokens = 1 << 20;  // of one image
inline constexpr int64_t kMostEdge = 1 << 16;    // any length that a plan names, pixels
inline constexpr int64_t kMostGrid = 1 << 10;    // tiles of a grid by aspect ratio: all its shapes are tried

enum class Filter { kBilinear, kBicubic, kLanczos };  // Pillow's

using Color = std::array<uint8_t, 3>;

struct Extent {  // pixels, tokens or tiles
  int64_t height = 0, width = 0;
  int64_t area() const { return height * width; }
  bool operator==(const Extent& other) const { return height == other.height && width == other.width; }
};

// One tile of each image.
struct Fixed {
  std::optional<Color> square;      // pad to a square of this colour first
  std::optional<int64_t> shortest;  // resize the shorter edge to this, cut the middle out; none: to the tile at once
};

// The whole image as one tile, then the tiles of the canvas that fits it best (LLaVA-NeXT, LLaVA-OneVision).
struct Canvases {
  std::vector<Extent> canvases;  // pixels, multiples of the tile
  std::optional<int64_t> most;   // tiles' worth of tokens, beyond which the canvas is interpolated down
  std::optional<Color> several;  // where a prompt has several images, each is one tile, padded to a square of this
};

// The grid of tiles of the nearest aspect ratio, then the whole image as one tile (InternVL).
struct NearestAspect {
  int64_t least = 0, most = 0;  // tiles
  std::string before, after;    // text around the image tokens
};

// The image at a stated longest edge, in tiles with marks between them, then whole as one tile (Idefics3, SmolVLM).
struct LongestEdge {
  int64_t edge = 0;           // pixels
  bool split = false;         // false: the whole image alone
  std::string around, whole;  // the texts before each tile and at the end, and before the whole image
};

// How an image becomes tiles of S x S pixels, each of which the vision tower turns into as many image tokens.
struct ImagePlan {
  int64_t size = 0;    // S
  int64_t tokens = 0;  // of one tile
  Filter filter = Filter::kBilinear;
  double scale = 0;  // of bytes, before mean and deviation
  std::array<double, 3> mean{}, std{};
  std::variant<Fixed, Canvases, NearestAspect, LongestEdge> layout;
};

// Refuses exactly what msgspec refuses in Python. Throws AR_BUNDLE_CORRUPT.
ImagePlan read_image_plan(const JsonView& view);

// Checks what a plan must be to make sense as a whole, and to stay within what is reckoned here in 64 bits. Throws
// AR_BUNDLE_CORRUPT: a length or count beyond the limits above, no canvas or one that is not made of tiles, tokens of a
// tile that are no square where a canvas is made of them, a crop larger than the image.
void check_image_plan(const ImagePlan& plan, const std::string& where);

}  // namespace ar::images
