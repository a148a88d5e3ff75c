#include "contract/image_plan.hpp"

#include <algorithm>
#include <cmath>

#include "contract/error.hpp"

namespace ar::images {
namespace {

template <class Value, std::size_t count, class Read>
std::array<Value, count> read_some(const JsonView& view, Read read) {
  const Json::Items& items = view.items();
  if (items.size() != count) view.refuse("Expected `array` of length " + std::to_string(count));
  std::array<Value, count> values{};
  for (std::size_t at = 0; at < count; ++at) values[at] = read(view.item(at, items[at]));
  return values;
}

uint8_t read_byte(const JsonView& view) {
  const int64_t value = read_count(view);
  if (value > 255) view.refuse("Expected `int` <= 255");
  return static_cast<uint8_t>(value);
}

Color read_color(const JsonView& view) { return read_some<uint8_t, 3>(view, read_byte); }

Extent read_extent(const JsonView& view) {
  const auto [height, width] = read_some<int64_t, 2>(view, read_positive);
  return {height, width};
}

std::array<double, 3> read_by_color(const JsonView& view) { return read_some<double, 3>(view, read_real); }

Filter read_filter(const JsonView& view) {
  const std::string name = read_one_of(view, {"bilinear", "bicubic", "lanczos"});
  return name == "bilinear" ? Filter::kBilinear : name == "bicubic" ? Filter::kBicubic : Filter::kLanczos;
}

void fill(JsonFields& fields, Fixed& layout) {
  fields.may("square", layout.square, nullable(read_color));
  fields.may("shortest", layout.shortest, nullable(read_positive));
}

void fill(JsonFields& fields, Canvases& layout) {
  fields.need("canvases", layout.canvases, list(read_extent));
  fields.may("most", layout.most, nullable(read_positive));
  fields.may("several", layout.several, nullable(read_color));
}

void fill(JsonFields& fields, NearestAspect& layout) {
  fields.need("least", layout.least, read_positive);
  fields.need("most", layout.most, read_positive);
  fields.need("before", layout.before, read_text);
  fields.need("after", layout.after, read_text);
}

void fill(JsonFields& fields, LongestEdge& layout) {
  fields.need("edge", layout.edge, read_positive);
  fields.need("split", layout.split, read_bool);
  fields.need("around", layout.around, read_text);
  fields.need("whole", layout.whole, read_text);
}

template <class Layout>
Layout read_as(const JsonView& view, const std::string& kind) {
  return record<Layout>([kind](JsonFields& fields, Layout& layout) {
    fields.check({"kind"}, [&kind](const JsonView& tag) { return read_one_of(tag, {kind}); });
    fill(fields, layout);
  })(view);
}

// Reads the layout of the kind that it names; a kind that is named twice must be the same one, as msgspec has it.
decltype(ImagePlan::layout) read_layout(const JsonView& view) {
  const Json::Members& members = view.members();
  const auto tag = std::find_if(members.begin(), members.end(), [](const auto& it) { return it.first == "kind"; });
  if (tag == members.end()) view.refuse("Object missing required field `kind`");
  const std::string kind =
      read_one_of(view.member("kind", tag->second), {"fixed", "canvases", "nearest-aspect", "longest-edge"});
  if (kind == "fixed") return read_as<Fixed>(view, kind);
  if (kind == "canvases") return read_as<Canvases>(view, kind);
  if (kind == "nearest-aspect") return read_as<NearestAspect>(view, kind);
  return read_as<LongestEdge>(view, kind);
}

constexpr auto read_plan = record<ImagePlan>([](JsonFields& fields, ImagePlan& plan) {
  fields.need("size", plan.size, read_positive);
  fields.need("tokens", plan.tokens, read_positive);
  fields.need("filter", plan.filter, read_filter);
  fields.need("scale", plan.scale, read_real);
  fields.need("mean", plan.mean, read_by_color);
  fields.need("std", plan.std, read_by_color);
  fields.need("layout", plan.layout, read_layout);
});

class Check {
 public:
  Check(const ImagePlan& plan, const std::string& where) : plan_(plan), where_(where) {}

  void size() const {
    limit("size", plan_.size, 1, kMostEdge);
    limit("tokens", plan_.tokens, 1, kMostTokens);
  }
  void operator()(const Fixed& layout) const {
    if (layout.shortest) limit("layout.shortest", *layout.shortest, plan_.size, kMostEdge);
  }
  void operator()(const Canvases& layout) const {
    if (layout.canvases.empty()) refuse("layout.canvases", "none", "at least one");
    for (const Extent& canvas : layout.canvases) tiled(canvas);
    if (layout.most) limit("layout.most", *layout.most, 1, kMostTokens);
    const auto side = static_cast<int64_t>(std::sqrt(static_cast<double>(plan_.tokens)));
    if (side * side != plan_.tokens) refuse("tokens", std::to_string(plan_.tokens), "a square");
  }
  void operator()(const NearestAspect& layout) const {
    limit("layout.most", layout.most, 1, kMostGrid);
    limit("layout.least", layout.least, 1, layout.most);
  }
  void operator()(const LongestEdge& layout) const { limit("layout.edge", layout.edge, 1, kMostEdge); }

 private:
  void limit(const char* name, int64_t value, int64_t least, int64_t most) const {
    if (value < least || value > most)
      refuse(name, std::to_string(value), std::to_string(least) + " to " + std::to_string(most));
  }
  void tiled(const Extent& canvas) const {
    limit("layout.canvases", canvas.height, plan_.size, kMostEdge);
    limit("layout.canvases", canvas.width, plan_.size, kMostEdge);
    if (canvas.height % plan_.size != 0 || canvas.width % plan_.size != 0)
      refuse("layout.canvases", std::to_string(canvas.height) + " x " + std::to_string(canvas.width),
             "multiples of " + std::to_string(plan_.size));
  }
  [[noreturn]] void refuse(const std::string& name, const std::string& got, const std::string& wanted) const {
    throw Error(AR_BUNDLE_CORRUPT, "the image plan is impossible",
                {where_ + ", image plan, " + name, got, wanted, "build the bundle again"});
  }

  const ImagePlan& plan_;
  const std::string& where_;
};

}  // namespace

ImagePlan read_image_plan(const JsonView& view) { return read_plan(view); }

void check_image_plan(const ImagePlan& plan, const std::string& where) {
  const Check check(plan, where);
  check.size();
  std::visit(check, plan.layout);
}

}  // namespace ar::images
