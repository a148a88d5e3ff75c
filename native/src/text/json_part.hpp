// Parts of tokenizer.json: objects with a type, of which some fields and some values are supported.
//
// What it is: JsonPart, which reads an object field by field, and the refusal of what is not supported.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "contract/json_reader.hpp"

namespace ar {

// Throws AR_ENGINE_UNAVAILABLE: the file is well formed, but this value asks for what is not supported here.
[[noreturn]] void refuse_unknown(const JsonView& view, const std::string& wanted);

// An object. Unknown fields are refused as well: a newer library may have given them a meaning.
class JsonPart {
 public:
  explicit JsonPart(const JsonView& view) : view_(view), members_(view.members()) {}
  JsonPart(const JsonPart&) = delete;  // views point into it

  std::optional<JsonView> may(const std::string& name);  // nothing: absent or null
  JsonView need(const std::string& name);                // throws AR_BUNDLE_CORRUPT: absent
  std::string text(const std::string& name) { return read_text(need(name)); }
  bool flag(const std::string& name) { return read_bool(need(name)); }
  bool flag(const std::string& name, bool otherwise);
  // Leaves fields unread: they do not touch ids or text.
  void ignore(const std::vector<std::string>& names) { known_.insert(known_.end(), names.begin(), names.end()); }
  void close() const;
  const JsonView& view() const { return view_; }

 private:
  const Json* find(const std::string& name);

  JsonView view_;
  const Json::Members& members_;
  std::vector<std::string> known_;
};

// Calls `read(part, type)` for the part, or for each member of a Sequence of parts, in order; `list` names its field.
template <class Read>
void each_part(const JsonView& view, const std::string& list, Read read, int depth = 0) {
  JsonPart part(view);
  const JsonView type = part.need("type");
  const std::string name = read_text(type);
  if (name != "Sequence") return read(part, name);
  if (depth == 8) refuse_unknown(type, "sequences in sequences no deeper than 8");
  const JsonView members = part.need(list);
  const Json::Items& items = members.items();
  for (std::size_t i = 0; i < items.size(); ++i) each_part(members.item(i, items[i]), list, read, depth + 1);
  part.close();
}

}  // namespace ar
