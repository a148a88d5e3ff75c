#include "text/json_part.hpp"

#include <algorithm>

#include "contract/error.hpp"

namespace ar {
namespace {

std::string shown(const JsonView& view) {
  if (const auto* text = view.get<std::string>()) return quoted(*text);
  if (const auto* flag = view.get<bool>()) return *flag ? "true" : "false";
  if (const auto* number = view.get<JsonInteger>()) {
    return (number->negative ? "-" : "") + std::to_string(number->magnitude);
  }
  if (const auto* number = view.get<double>()) return std::to_string(*number);
  if (view.get<std::nullptr_t>()) return "null";
  return view.get<Json::Items>() ? "an array" : "an object";
}

}  // namespace

void refuse_unknown(const JsonView& view, const std::string& wanted) {
  throw Error(AR_ENGINE_UNAVAILABLE, "the native runtime does not know this kind of tokenizer",
              {"tokenizer/tokenizer.json at `" + view.path() + "`", shown(view), wanted,
               "load the bundle with ids_only and give token ids, or use the Python runtime"});
}

const Json* JsonPart::find(const std::string& name) {
  known_.push_back(name);
  const Json* found = nullptr;  // of a name that occurs twice the last counts, as in `tokenizers`
  for (const auto& [key, json] : members_) {
    if (key == name) found = &json;
  }
  return found;
}

std::optional<JsonView> JsonPart::may(const std::string& name) {
  const Json* found = find(name);
  if (found == nullptr || std::holds_alternative<std::nullptr_t>(found->value)) return std::nullopt;
  return view_.member(name, *found);
}

JsonView JsonPart::need(const std::string& name) {
  const Json* found = find(name);
  if (found == nullptr) view_.refuse("Object missing required field `" + name + "`");
  return view_.member(name, *found);
}

bool JsonPart::flag(const std::string& name, bool otherwise) {
  const auto found = may(name);
  return found ? read_bool(*found) : otherwise;
}

void JsonPart::close() const {
  for (const auto& [key, json] : members_) {
    if (std::find(known_.begin(), known_.end(), key) == known_.end()) {
      refuse_unknown(view_.keyed(key, json), "no such field");
    }
  }
}

}  // namespace ar
