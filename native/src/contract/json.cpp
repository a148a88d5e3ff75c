#include "contract/json.hpp"

#include <nlohmann/json.hpp>

#include "contract/error.hpp"

namespace ar {
namespace {

using Parsed = nlohmann::json;

// Hands on what is read, kind by kind; stops at the first error, which it keeps.
class Sax : public nlohmann::json_sax<Parsed> {
 public:
  std::string complaint;

  bool null() override { return value({nullptr}); }
  bool boolean(bool flag) override { return value({flag}); }
  bool number_integer(number_integer_t number) override {
    const auto bits = static_cast<uint64_t>(number);
    return value({JsonInteger{static_cast<double>(number), number < 0 ? ~bits + 1 : bits, number < 0, true}});
  }
  bool number_unsigned(number_unsigned_t number) override {
    return value({JsonInteger{static_cast<double>(number), number, false, true}});
  }
  bool number_float(number_float_t number, const string_t& digits) override {
    if (digits.find_first_of(".eE") != string_t::npos) return value({number});
    return value({JsonInteger{number, 0, number < 0, false}});
  }
  bool string(string_t& text) override { return value({std::move(text)}); }
  bool binary(binary_t&) override { return false; }  // JSON text has none
  bool start_object(std::size_t) override { return open({Json::Members{}}); }
  bool start_array(std::size_t) override { return open({Json::Items{}}); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    complaint = error.what();
    return false;
  }

 private:
  virtual bool value(Json json) = 0;
  virtual bool open(Json container) = 0;
  virtual bool close() = 0;
};

// Builds a Json. Only the innermost open value grows, so the addresses of the others hold.
class Builder : public Sax {
 public:
  Json root;

  bool key(string_t& text) override {
    key_ = std::move(text);
    return true;
  }

 private:
  Json& place() {
    if (open_.empty()) return root;
    if (auto* items = std::get_if<Json::Items>(&open_.back()->value)) return items->emplace_back();
    auto& members = std::get<Json::Members>(open_.back()->value);
    return members.emplace_back(std::move(key_), Json{}).second;
  }
  bool value(Json json) override {
    place() = std::move(json);
    return true;
  }
  bool open(Json container) override {
    if (open_.size() == kMaxJsonDepth) {
      complaint = "nested deeper than " + std::to_string(kMaxJsonDepth);
      return false;
    }
    open_.push_back(&place());
    open_.back()->value = std::move(container.value);
    return true;
  }
  bool close() override {
    open_.pop_back();
    return true;
  }

  std::string key_;
  std::vector<Json*> open_;
};

// Looks for the outermost "schema" alone.
class SchemaFinder : public Sax {
 public:
  std::optional<JsonInteger> schema;

  bool key(string_t& text) override {
    at_schema_ = depth_ == 1 && text == "schema";
    return true;
  }

 private:
  bool value(Json json) override {
    if (!std::exchange(at_schema_, false)) return true;
    schema.reset();
    if (const auto* number = std::get_if<JsonInteger>(&json.value); number && !number->negative) schema = *number;
    return true;
  }
  bool open(Json container) override {
    value({});
    return depth_++ > 0 || std::holds_alternative<Json::Members>(container.value);  // an array's elements have no keys
  }
  bool close() override {
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

std::optional<JsonInteger> schema_number(std::string_view text) {
  SchemaFinder finder;
  return parse(harmless(text), finder) ? finder.schema : std::nullopt;
}

std::string json_element(std::string_view text, const std::string& key, std::size_t index) {
  return nlohmann::ordered_json::parse(text).at(key).at(index).dump();
}

}  // namespace ar
