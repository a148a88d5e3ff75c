#include "contract/json.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "contract/error.hpp"

namespace ar {
namespace {

using Parsed = nlohmann::json;

// What both readers below share: they stop at the first error, which they keep.
class Sax : public nlohmann::json_sax<Parsed> {
 public:
  std::string complaint;

  bool binary(binary_t&) override { return false; }  // JSON text has none
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    complaint = error.what();
    return false;
  }
};

// Builds a Json. Only the innermost open value grows, so the addresses of the others hold.
class Builder : public Sax {
 public:
  Json root;

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override {
    const auto bits = static_cast<uint64_t>(value);
    return add(JsonInteger{static_cast<double>(value), value < 0 ? ~bits + 1 : bits, value < 0, true});
  }
  bool number_unsigned(number_unsigned_t value) override {
    return add(JsonInteger{static_cast<double>(value), value, false, true});
  }
  bool number_float(number_float_t value, const string_t& digits) override {
    if (digits.find_first_of(".eE") != string_t::npos) return add(value);
    return add(JsonInteger{value, 0, value < 0, false});
  }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool key(string_t& value) override {
    key_ = std::move(value);
    return true;
  }
  bool start_object(std::size_t) override { return open(Json::Members{}); }
  bool start_array(std::size_t) override { return open(Json::Items{}); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

 private:
  template <class Value>
  bool add(Value&& value) {
    place().value = std::forward<Value>(value);
    return true;
  }

  Json& place() {
    if (open_.empty()) return root;
    if (auto* items = std::get_if<Json::Items>(&open_.back()->value)) return items->emplace_back();
    auto& members = std::get<Json::Members>(open_.back()->value);
    return members.emplace_back(std::move(key_), Json{}).second;
  }

  template <class Container>
  bool open(Container&& container) {
    if (open_.size() == kMaxJsonDepth) {
      complaint = "nested deeper than " + std::to_string(kMaxJsonDepth);
      return false;
    }
    Json& place = this->place();
    place.value = std::forward<Container>(container);
    open_.push_back(&place);
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::string key_;
  std::vector<Json*> open_;
};

// Looks for the outermost "schema" alone.
class SchemaFinder : public Sax {
 public:
  std::optional<std::string> digits;

  bool null() override { return other(); }
  bool boolean(bool) override { return other(); }
  bool number_integer(number_integer_t) override { return other(); }
  bool number_unsigned(number_unsigned_t value) override { return number(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override {
    return text.find_first_not_of("0123456789") == string_t::npos ? number(text) : other();
  }
  bool string(string_t&) override { return other(); }
  bool key(string_t& value) override {
    at_schema_ = depth_ == 1 && value == "schema";
    return true;
  }
  bool start_object(std::size_t) override { return open(); }
  bool start_array(std::size_t) override {
    if (depth_ == 0) return false;  // whose elements have no keys
    return open();
  }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

 private:
  bool number(const std::string& text) {
    if (at_schema_) digits = text;
    at_schema_ = false;
    return true;
  }
  bool other() {
    if (at_schema_) digits.reset();
    at_schema_ = false;
    return true;
  }
  bool open() {
    ++depth_;
    return other();
  }
  bool close() {
    --depth_;
    return true;
  }

  std::size_t depth_ = 0;
  bool at_schema_ = false;
};

// Returns a text of the same shape whose parts the parser cannot refuse for what they mean: bytes beyond ASCII become
// letters, and numbers lose the digits that would carry them beyond a double. A byte order mark and stray bytes
// stay as wrong as they were.
std::string harmless(std::string_view text) {
  constexpr std::size_t kDigits = 200, kExponentDigits = 2;  // below 1e300
  std::string out;
  out.reserve(text.size());
  bool quoted = false, escaped = false, exponent = false;
  std::size_t run = 0;  // digits in a row
  for (const char byte : text) {
    const bool digit = byte >= '0' && byte <= '9';
    run = digit ? run + 1 : 0;
    if (!quoted && digit && run > (exponent ? kExponentDigits : kDigits)) continue;
    exponent = byte == 'e' || byte == 'E' || (exponent && (digit || byte == '+' || byte == '-'));
    out += static_cast<unsigned char>(byte) < 0x80 ? byte : 'x';
    if (byte == '"' && !escaped) quoted = !quoted;
    escaped = quoted && byte == '\\' && !escaped;
  }
  return out;
}

// The parser takes a zero byte for the end of the text, and skips a byte order mark; neither is JSON.
bool parse(std::string_view text, Sax& sax) {
  if (text.find('\0') != std::string_view::npos) {
    sax.complaint = "a zero byte";
  } else if (text.substr(0, 3) == "\xef\xbb\xbf") {
    sax.complaint = "a byte order mark";
  } else {
    return Parsed::sax_parse(text.begin(), text.end(), &sax) && sax.complaint.empty();
  }
  return false;
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where) {
  Builder builder;
  if (parse(text, builder)) return std::move(builder.root);
  const std::size_t cut = builder.complaint.find("] ");
  const std::string complaint = cut == std::string::npos ? builder.complaint : builder.complaint.substr(cut + 2);
  throw Error(AR_BUNDLE_CORRUPT, "the text is not JSON", {where, quoted(complaint), "", ""});
}

std::optional<std::string> schema_number(std::string_view text) {
  SchemaFinder finder;
  return parse(harmless(text), finder) ? finder.digits : std::nullopt;
}

std::string json_string(const std::string& text) {
  return Parsed(text).dump(-1, ' ', false, Parsed::error_handler_t::replace);
}

std::string json_number(double number) {
  std::array<char, 32> buffer;
  const auto end =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), number, std::chars_format::scientific).ptr;
  const std::string shortest(buffer.data(), end);  // -1.25e-07
  const std::size_t mark = shortest.find('e');
  const int exponent = std::atoi(shortest.c_str() + mark + 1);
  if (exponent < -5 || exponent > 15) return shortest.substr(0, mark) + "e" + std::to_string(exponent);
  const std::string sign = number < 0 || shortest[0] == '-' ? "-" : "";
  std::string digits = shortest.substr(sign.size(), mark - sign.size());
  digits.erase(std::remove(digits.begin(), digits.end(), '.'), digits.end());
  if (exponent < 0) return sign + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

}  // namespace ar
