// JSON as values: what a text holds, key by key, in its order.
//
// What it is: Json, and the reading of a text into one; nlohmann/json does the parsing, in json.cpp alone.
// What it knows: how deep any record of ours nests, and that a key may occur twice (the last one counts, all are
// checked, as msgspec does). What it does not know: records (json_reader.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace ar {

inline constexpr std::size_t kMaxJsonDepth = 64;  // a manifest nests 7 deep

// An integer of any size; `fits` says whether `magnitude` holds it.
struct JsonInteger {
  double real = 0;
  uint64_t magnitude = 0;
  bool negative = false;
  bool fits = true;
};

struct Json {
  using Items = std::vector<Json>;
  using Members = std::vector<std::pair<std::string, Json>>;
  std::variant<std::nullptr_t, bool, JsonInteger, double, std::string, Items, Members> value;
};

// Reads a whole text. Throws AR_BUNDLE_CORRUPT: no JSON, nested too deep, invalid UTF-8, a byte order mark, a number
// that no double holds, or anything after the value.
Json parse_json(std::string_view text, const std::string& where);

// Returns the outermost object's "schema" where that is a whole number of 0 or more, and nothing where it is something
// else or the text is no JSON. Texts and numbers elsewhere need not be possible ones, nor is there a limit of depth: a
// schema of the future may hold what this program refuses.
std::optional<JsonInteger> schema_number(std::string_view text);

// Returns an element of the array `key` in the outermost object of a text that was read before, as compact JSON.
std::string json_element(std::string_view text, const std::string& key, std::size_t index);

}  // namespace ar
