#include "images/planning.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "contract/error.hpp"

namespace ar::images {
namespace {

double real(int64_t value) { return static_cast<double>(value); }
int64_t whole(double value) { return static_cast<int64_t>(value); }  // towards 0
int64_t ceiling(double value) { return static_cast<int64_t>(std::ceil(value)); }
double aspect_of(const Extent& size) { return real(size.width) / real(size.height); }
Resize to_tile(const ImagePlan& plan) { return {{plan.size, plan.size}}; }

std::string shown(const Extent& size) { return std::to_string(size.width) + " x " + std::to_string(size.height); }

// Checks how many tokens some tiles have, before any list grows with them.
void check_tokens(const ImagePlan& plan, const Extent& size, int64_t tiles) {
  if (tiles <= kMostTokens / plan.tokens) return;
  throw Error(AR_IMAGE_INVALID, "the image has too many tokens under this model's image plan",
              {"", shown(size) + ": " + std::to_string(tiles) + " tiles of " + std::to_string(plan.tokens) + " tokens",
               "up to " + std::to_string(kMostTokens) + " tokens", "pass a smaller image"});
}

// Checks the size of what is on the way: of a resized image, whichever of its axes is resized first.
void check_pixels(const View& view, const Extent& size) {
  Extent from = size;
  for (const Step& step : view.steps) {
    const Extent to = after(step, from);
    const Extent most{std::max(from.height, to.height), std::max(from.width, to.width)};
    if (most.height > kMostPixels / most.width) {
      throw Error(AR_IMAGE_INVALID, "the image takes too much memory under this model's image plan",
                  {"", shown(size) + ", which becomes " + shown(most),
                   "up to " + std::to_string(kMostPixels) + " pixels", "pass a smaller or less narrow image"});
    }
    from = to;
  }
}

// Returns the padding that puts an image of size `from` into the middle of `to`.
Pad centred(const Extent& from, const Extent& to, const Color& color) {
  const int64_t above = (to.height - from.height) / 2, before = (to.width - from.width) / 2;
  return {above, to.height - from.height - above, before, to.width - from.width - before, color};
}

// Returns the view of the whole image as one tile.
View as_tile(const ImagePlan& plan, Extent size, const std::optional<Color>& square, std::optional<int64_t> shortest) {
  View view;
  if (square && size.height != size.width) {
    const int64_t longer = std::max(size.height, size.width);
    view.steps.push_back(centred(size, {longer, longer}, *square));
    size = {longer, longer};
  }
  if (!shortest) {
    view.steps.push_back(to_tile(plan));
    return view;
  }
  const auto [low, high] = std::minmax(size.height, size.width);
  const int64_t longer = whole(real(*shortest * high) / real(low));
  size = size.height <= size.width ? Extent{*shortest, longer} : Extent{longer, *shortest};
  view.steps.push_back(Resize{size});
  const Extent tile = to_tile(plan).to;
  if (!(size == tile)) view.steps.push_back(Crop{(size.height - tile.height) / 2, (size.width - tile.width) / 2, tile});
  return view;
}

PlannedImage planned(const ImagePlan& plan, const Fixed& layout, const Extent& size) {
  return {{as_tile(plan, size, layout.square, layout.shortest)}, {Tiles{0, 1}}, {plan.tokens}};
}

// Returns the canvas that shows most of the image and, of those, wastes least; the first of equals.
Extent best_canvas(const std::vector<Extent>& canvases, const Extent& size) {
  const auto shown_and_wasted = [&size](const Extent& canvas) {
    const double scale = std::min(real(canvas.width) / real(size.width), real(canvas.height) / real(size.height));
    const int64_t area = whole(real(size.width) * scale) * whole(real(size.height) * scale);
    const int64_t seen = std::min(area, size.area());
    return std::pair(seen, seen - canvas.area());
  };
  return *std::max_element(canvases.begin(), canvases.end(), [&](const Extent& one, const Extent& other) {
    return shown_and_wasted(one) < shown_and_wasted(other);
  });
}

// Returns the largest size of the image, in its aspect ratio, that fits on a canvas.
Extent fitted(const Extent& size, const Extent& canvas) {
  const double tall = real(canvas.height) / real(size.height), wide = real(canvas.width) / real(size.width);
  if (wide < tall) return {std::min(ceiling(real(size.height) * wide), canvas.height), canvas.width};
  return {canvas.height, std::min(ceiling(real(size.width) * tall), canvas.width)};
}

// Returns how many rows of tokens above, and columns before, stand for padding alone.
//
// Python takes int(round(height * (columns / width), 7)). The true quotient is a whole number or at least 1 / width
// away from one: with sides below 10^7 rounding to 7 digits takes away the error of the doubles, and nothing else.
Extent padding(const Extent& size, const Extent& grid) {
  if (aspect_of(size) > aspect_of(grid)) return {(grid.height - size.height * grid.width / size.width) / 2, 0};
  return {0, (grid.width - size.width * grid.height / size.height) / 2};
}

// x // y of two positive doubles, as Python reckons it.
int64_t floored(double x, double y) {
  const double quotient = (x - std::fmod(x, y)) / y, floor = std::floor(quotient);
  return whole(quotient - floor > 0.5 ? floor + 1 : floor);
}

Extent interpolated(const Extent& grid, const std::optional<int64_t>& most, int64_t tokens) {
  const double ratio = most ? std::sqrt(real(grid.area()) / real(*most * tokens)) : 0;
  if (!(ratio > 1.1)) return grid;
  return {floored(real(grid.height), ratio), floored(real(grid.width), ratio)};
}

PlannedImage on_canvas(const ImagePlan& plan, const Canvases& layout, const Extent& size) {
  const Extent canvas = best_canvas(layout.canvases, size), inner = fitted(size, canvas);
  const Extent tiles{canvas.height / plan.size, canvas.width / plan.size};
  check_tokens(plan, size, 1 + tiles.area());
  const int64_t side = whole(std::sqrt(real(plan.tokens)));
  const Extent all{tiles.height * side, tiles.width * side}, cut = padding(size, all);
  const Extent left{all.height - 2 * cut.height, all.width - 2 * cut.width};
  const Extent tokens = interpolated(left, layout.most, plan.tokens);
  if (std::min(tokens.height, tokens.width) < 1 && std::min(left.height, left.width) >= 1)
    throw Error(AR_IMAGE_INVALID, "the image is too narrow for this model", {"", shown(size), "", ""});
  const View tile{{to_tile(plan)}};
  const View grid{{Resize{inner}, centred(inner, canvas, {0, 0, 0})}, tiles.height, tiles.width};
  return {{tile, grid},
          {Tiles{0, 1}, Grid{1, tiles, cut, tokens}},
          {plan.tokens + tokens.height * (tokens.width + 1)}};
}

// Returns the rows and columns of the grid whose aspect ratio is nearest to the image's.
Extent nearest(const NearestAspect& layout, int64_t side, const Extent& size) {
  Extent best{1, 1};
  double least = std::numeric_limits<double>::infinity();
  for (int64_t area = layout.least; area <= layout.most; ++area) {
    for (int64_t columns = 1; columns <= area; ++columns) {
      if (area % columns != 0) continue;
      const Extent grid{area / columns, columns};
      const double away = std::abs(aspect_of(size) - aspect_of(grid));
      const bool large = real(size.area()) > 0.5 * real(side * side * area);
      if (away < least || (away == least && large)) best = grid, least = away;
    }
  }
  return best;
}

PlannedImage planned(const ImagePlan& plan, const NearestAspect& layout, const Extent& size) {
  const Extent grid = nearest(layout, plan.size, size);
  std::vector<View> views{{{Resize{{grid.height * plan.size, grid.width * plan.size}}}, grid.height, grid.width}};
  if (grid.area() > 1) views.push_back({{to_tile(plan)}});
  const int64_t tiles = grid.area() + (grid.area() > 1);
  check_tokens(plan, size, tiles);
  return {views, {Tiles{0, tiles}}, {layout.before, tiles * plan.tokens, layout.after}};
}

// Returns the size at which the longer edge is `edge` and the other one even.
Extent at_edge(const Extent& size, int64_t edge) {
  const double aspect = aspect_of(size);
  const bool wide = size.width >= size.height;
  const int64_t other = whole(wide ? real(edge) / aspect : real(edge) * aspect);
  const int64_t even = std::max<int64_t>(other + other % 2, 1);
  return wide ? Extent{even, edge} : Extent{edge, even};
}

Extent bounded(const Extent& size) {
  const double aspect = aspect_of(size);
  if (size.width >= size.height && size.width > kMostSide)
    return {std::max<int64_t>(whole(real(kMostSide) / aspect), 1), kMostSide};
  if (size.height > size.width && size.height > kMostSide)
    return {kMostSide, std::max<int64_t>(whole(real(kMostSide) * aspect), 1)};
  return size;
}

// Returns the size in whole tiles.
Extent in_tiles(const Extent& size, int64_t side) {
  const auto up = [side](int64_t length) { return (length + side - 1) / side * side; };
  const double aspect = aspect_of(size);
  if (size.width >= size.height) return {up(whole(real(up(size.width)) / aspect)), up(size.width)};
  return {up(size.height), up(whole(real(up(size.height)) * aspect))};
}

// Returns the text and tokens of a grid of tiles, each behind its mark.
Content marked(const ImagePlan& plan, const LongestEdge& layout, const Extent& grid) {
  Content content;
  for (int64_t row = 1; row <= grid.height; ++row) {
    for (int64_t column = 1; column <= grid.width; ++column) {
      const std::string place = "<row_" + std::to_string(row) + "_col_" + std::to_string(column) + ">";
      content.emplace_back((row > 1 && column == 1 ? "\n" : "") + layout.around + place);
      content.emplace_back(plan.tokens);
    }
  }
  return content;
}

PlannedImage planned(const ImagePlan& plan, const LongestEdge& layout, const Extent& size) {
  std::vector<Step> steps{Resize{bounded(at_edge(size, layout.edge))}};
  Extent last = std::get<Resize>(steps.back()).to, grid{1, 1};
  if (layout.split) {
    last = in_tiles(last, plan.size);
    steps.push_back(Resize{last});
    grid = {last.height / plan.size, last.width / plan.size};
  }
  check_tokens(plan, size, grid.area() + (grid.area() > 1));
  View all{steps};
  if (!(last == to_tile(plan).to)) all.steps.push_back(to_tile(plan));
  const std::string before = layout.around + layout.whole;
  if (grid.area() == 1) return {{all}, {Tiles{0, 1}}, {before, plan.tokens, layout.around}};
  Content content = marked(plan, layout, grid);
  content.insert(content.end(), {"\n\n" + before, plan.tokens, layout.around});
  return {{View{steps, grid.height, grid.width}, all}, {Tiles{0, grid.area() + 1}}, content};
}

PlannedImage planned(const ImagePlan& plan, const Extent& size, bool alone) {
  if (const auto* canvases = std::get_if<Canvases>(&plan.layout)) {
    if (alone || !canvases->several) return on_canvas(plan, *canvases, size);
    return {{as_tile(plan, size, canvases->several, {})}, {Tiles{0, 1}, Newline{}}, {plan.tokens + 1}};
  }
  if (const auto* fixed = std::get_if<Fixed>(&plan.layout)) return planned(plan, *fixed, size);
  if (const auto* nearest = std::get_if<NearestAspect>(&plan.layout)) return planned(plan, *nearest, size);
  return planned(plan, std::get<LongestEdge>(plan.layout), size);
}

}  // namespace

Extent after(const Step& step, const Extent& from) {
  if (const auto* resize = std::get_if<Resize>(&step)) return resize->to;
  if (const auto* crop = std::get_if<Crop>(&step)) return crop->size;
  const Pad& pad = std::get<Pad>(step);
  return {pad.top + from.height + pad.bottom, pad.left + from.width + pad.right};
}

int64_t PlannedImage::tiles() const {
  int64_t count = 0;
  for (const View& view : views) count += view.rows * view.columns;
  return count;
}

int64_t PlannedImage::tokens() const {
  int64_t count = 0;
  for (const auto& part : content)
    if (const auto* tokens = std::get_if<int64_t>(&part)) count += *tokens;
  return count;
}

std::vector<PlannedImage> plan_images(const ImagePlan& plan, const std::vector<Extent>& sizes) {
  std::vector<PlannedImage> images;
  for (const Extent& size : sizes) {
    images.push_back(planned(plan, size, sizes.size() == 1));
    for (const View& view : images.back().views) check_pixels(view, size);
  }
  return images;
}

}  // namespace ar::images
