#include "contract/json_reader.hpp"

#include <array>

#include "contract/error.hpp"

namespace ar {
namespace {

constexpr std::array<const char*, std::variant_size_v<decltype(Json::value)>> kKinds = {
    "null", "bool", "int", "float", "str", "array", "object"};

const JsonInteger& integer(const JsonView& view) {
  const auto* number = view.get<JsonInteger>();
  if (!number) view.expected("int");
  return *number;
}

int64_t at_least(const JsonView& view, uint64_t lowest) {
  const JsonInteger& number = integer(view);
  if ((number.negative && number.magnitude > 0) || (number.fits && number.magnitude < lowest))
    view.refuse("Expected `int` >= " + std::to_string(lowest));
  if (!number.fits || number.magnitude > static_cast<uint64_t>(kInt64Max))
    view.refuse("Expected `int` <= " + std::to_string(kInt64Max));
  return static_cast<int64_t>(number.magnitude);
}

}  // namespace

JsonView JsonView::keyed(const std::string& key, const Json& json) const {
  return {json, where_, this, "[" + quoted(key) + "]"};
}

const Json::Items& JsonView::items() const {
  if (const auto* items = get<Json::Items>()) return *items;
  expected("array");
}

const Json::Members& JsonView::members() const {
  if (const auto* members = get<Json::Members>()) return *members;
  expected("object");
}

std::string JsonView::path() const {
  std::string path;
  for (const JsonView* view = this; view; view = view->parent_) path.insert(0, view->step_);
  return path;
}

void JsonView::refuse(const std::string& complaint) const {
  throw Error(AR_BUNDLE_CORRUPT, "the record is malformed",
              {where_, complaint + " - at `" + path() + "`", "", "build the bundle again"});
}

void JsonView::expected(const std::string& kind) const {
  refuse("Expected `" + kind + "`, got `" + kKinds[json_.value.index()] + "`");
}

bool read_bool(const JsonView& view) {
  if (const bool* flag = view.get<bool>()) return *flag;
  view.expected("bool");
}

double read_real(const JsonView& view) {
  if (const double* number = view.get<double>()) return *number;
  if (const auto* number = view.get<JsonInteger>()) return number->real;
  view.expected("float");
}

std::string read_text(const JsonView& view) {
  if (const auto* text = view.get<std::string>()) return *text;
  view.expected("str");
}

std::string read_sha256(const JsonView& view) {
  std::string text = read_text(view);
  if (text.size() != 64 || text.find_first_not_of("0123456789abcdef") != std::string::npos)
    view.refuse("Expected 64 lower-case hex digits, got " + quoted(text, 80));
  return text;
}

int64_t read_count(const JsonView& view) { return at_least(view, 0); }

int64_t read_positive(const JsonView& view) { return at_least(view, 1); }

int64_t read_int64(const JsonView& view) {
  const JsonInteger& number = integer(view);
  const uint64_t beyond = uint64_t{1} << 63;  // -2^63 is one of them, 2^63 is not
  if (!number.fits || number.magnitude > beyond || (number.magnitude == beyond && !number.negative))
    view.refuse("Expected `int` of 64 bits");
  return static_cast<int64_t>(number.negative ? ~number.magnitude + 1 : number.magnitude);
}

std::string read_one_of(const JsonView& view, const std::vector<std::string>& names) {
  std::string text = read_text(view);
  if (std::find(names.begin(), names.end(), text) == names.end()) view.refuse("Invalid enum value " + quoted(text, 80));
  return text;
}

void JsonFields::close() const {
  for (const auto& [key, json] : members_) {
    if (std::find(known_.begin(), known_.end(), key) == known_.end())
      view_.refuse("Object contains unknown field " + quoted(key));
  }
}

}  // namespace ar
