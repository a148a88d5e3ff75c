#include "images/sources.hpp"

#include <algorithm>
#include <cmath>

namespace ar::images {
namespace {

// Between which two of a line's places a wanted one is, and the share of the latter.
struct Between {
  int64_t before, behind;
  float share;
};

// As torch.nn.functional.interpolate does it with align_corners=False, in float.
Between between(int64_t place, int64_t there, int64_t wanted) {
  const float scale = static_cast<float>(there) / static_cast<float>(wanted);
  const float exact = std::max((static_cast<float>(place) + 0.5f) * scale - 0.5f, 0.0f);
  const auto before = static_cast<int64_t>(exact);
  return {before, std::min(before + 1, there - 1), exact - static_cast<float>(before)};
}

class Writer {
 public:
  Writer(const ImagePlan& plan, int64_t newline)
      : tokens_(plan.tokens), side_(static_cast<int64_t>(std::sqrt(static_cast<double>(plan.tokens)))),
        newline_(newline) {}

  void begin(int64_t tile) { first_ = tile; }
  void operator()(const Newline&) { single(newline_); }
  void operator()(const Tiles& tiles) {
    const int64_t first = (first_ + tiles.first) * tokens_;
    for (int64_t at = 0; at < tiles.count * tokens_; ++at) single(first + at);
  }
  void operator()(const Grid& grid) {
    for (int64_t row = 0; row < grid.size.height; ++row) {
      for (int64_t column = 0; column < grid.size.width; ++column) mixed(grid, row, column);
      single(newline_);
    }
  }
  TokenSources made;

 private:
  void single(int64_t row) {
    made.rows.push_back({row, row, row, row});
    made.weights.push_back({1, 0, 0, 0});
  }

  void mixed(const Grid& grid, int64_t row, int64_t column) {
    const Between down = between(row, grid.tiles.height * side_ - 2 * grid.cut.height, grid.size.height);
    const Between across = between(column, grid.tiles.width * side_ - 2 * grid.cut.width, grid.size.width);
    made.rows.push_back({at(grid, down.before, across.before), at(grid, down.before, across.behind),
                         at(grid, down.behind, across.before), at(grid, down.behind, across.behind)});
    made.weights.push_back({(1 - down.share) * (1 - across.share), (1 - down.share) * across.share,
                            down.share * (1 - across.share), down.share * across.share});
  }

  // Returns the row of the token at a place of a grid without its padding.
  int64_t at(const Grid& grid, int64_t row, int64_t column) const {
    row += grid.cut.height, column += grid.cut.width;
    const int64_t tile = first_ + grid.first + row / side_ * grid.tiles.width + column / side_;
    return tile * tokens_ + row % side_ * side_ + column % side_;
  }

  int64_t tokens_, side_, newline_;
  int64_t first_ = 0;  // tile of the image
};

}  // namespace

TokenSources token_sources(const ImagePlan& plan, const std::vector<PlannedImage>& images) {
  int64_t tiles = 0;
  for (const PlannedImage& image : images) tiles += image.tiles();
  Writer writer(plan, tiles * plan.tokens);
  int64_t first = 0;
  for (const PlannedImage& image : images) {
    writer.begin(first);
    for (const Source& source : image.sources) std::visit(writer, source);
    first += image.tiles();
  }
  return writer.made;
}

}  // namespace ar::images
