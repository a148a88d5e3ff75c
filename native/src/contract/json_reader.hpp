// Records read from JSON values: typed readers that know where they are.
//
// What it is: JsonView, a value with its path; readers of single values; list, table and nullable, which make readers
// of readers; record, which makes a reader of an object's fields and refuses what is unknown or missing. What it knows:
// msgspec's rules (no bool for a number, no float for an integer, an integer where a float is wanted). What it does not
// know: any record.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "contract/json.hpp"

namespace ar {

// A value and how it was reached; lives no longer than its parent and its name.
class JsonView {
 public:
  JsonView(const Json& json, const std::string& where) : json_(json), where_(where) {}
  JsonView member(const std::string& key, const Json& json) const { return {json, where_, this, "." + key}; }
  JsonView keyed(const std::string& key, const Json& json) const;
  JsonView item(std::size_t index, const Json& json) const {
    return {json, where_, this, "[" + std::to_string(index) + "]"};
  }

  template <class Value>
  const Value* get() const {
    return std::get_if<Value>(&json_.value);
  }
  const Json::Items& items() const;      // throws where it is no array
  const Json::Members& members() const;  // throws where it is no object

  // Throws AR_BUNDLE_CORRUPT; `complaint` "Expected `int`, got `str`" comes with the path.
  [[noreturn]] void refuse(const std::string& complaint) const;
  [[noreturn]] void expected(const std::string& kind) const;  // the value is of another kind
  std::string path() const;                                   // "$.entries[0].backend"

 private:
  JsonView(const Json& json, const std::string& where, const JsonView* parent, std::string step)
      : json_(json), where_(where), parent_(parent), step_(std::move(step)) {}

  const Json& json_;
  const std::string& where_;
  const JsonView* parent_ = nullptr;
  std::string step_ = "$";
};

inline constexpr int64_t kInt64Max = std::numeric_limits<int64_t>::max();

bool read_bool(const JsonView& view);
double read_real(const JsonView& view);
std::string read_text(const JsonView& view);
std::string read_sha256(const JsonView& view);  // 64 lower-case hex digits
int64_t read_count(const JsonView& view);       // 0 to 2^63 - 1
int64_t read_positive(const JsonView& view);    // 1 to 2^63 - 1
int64_t read_int64(const JsonView& view);       // any of them
std::string read_one_of(const JsonView& view, const std::vector<std::string>& names);

template <class Read>
auto nullable(Read read) {
  return [read](const JsonView& view) {
    using Value = decltype(read(view));
    return view.get<std::nullptr_t>() ? std::optional<Value>() : std::optional<Value>(read(view));
  };
}

template <class Read>
auto list(Read read) {
  return [read](const JsonView& view) {
    std::vector<decltype(read(view))> values;
    const Json::Items& items = view.items();
    for (std::size_t index = 0; index < items.size(); ++index) values.push_back(read(view.item(index, items[index])));
    return values;
  };
}

template <class Read>
auto table(Read read) {
  return [read](const JsonView& view) {
    std::map<std::string, decltype(read(view))> values;
    for (const auto& [key, json] : view.members()) values[key] = read(view.keyed(key, json));
    return values;
  };
}

// Reads an object. Of a key that occurs twice every value is checked and the last one counts.
class JsonFields {
 public:
  explicit JsonFields(const JsonView& view) : view_(view), members_(view.members()) {}

  template <class Value, class Read>
  bool may(const std::string& name, Value& value, Read read) {
    known_.push_back(name);
    bool found = false;
    for (const auto& [key, json] : members_) {
      if (key != name) continue;
      value = read(view_.member(key, json));
      found = true;
    }
    return found;
  }

  template <class Value, class Read>
  void need(const std::string& name, Value& value, Read read) {
    if (!may(name, value, read)) view_.refuse("Object missing required field `" + name + "`");
  }

  // Checks fields whose values nobody here needs.
  template <class Read>
  void check(std::initializer_list<const char*> names, Read read) {
    for (const char* name : names) {
      decltype(read(view_)) value;
      need(name, value, read);
    }
  }
  template <class Read>
  void may_check(const char* name, Read read) {
    decltype(read(view_)) value;
    may(name, value, read);
  }

  void close() const;  // every key was asked for

 private:
  const JsonView& view_;
  const Json::Members& members_;
  std::vector<std::string> known_;
};

// Makes the reader of a record: `fill(fields, record)` names its fields.
template <class Record, class Fill>
constexpr auto record(Fill fill) {
  return [fill](const JsonView& view) {
    JsonFields fields(view);
    Record made{};
    fill(fields, made);
    fields.close();
    return made;
  };
}

}  // namespace ar
