#include "text/decoder.hpp"

#include <optional>
#include <string_view>
#include <utility>

#include "text/byte_level.hpp"
#include "text/utf8.hpp"

namespace ar {
namespace {

using Tokens = std::vector<std::string>;

std::string joined(const Tokens& tokens) {
  std::string text;
  for (const std::string& token : tokens) text += token;
  return text;
}

// Returns the byte that a token like <0x0A> stands for. A plus sign counts as a digit does in Rust: <0x+A> is a byte.
std::optional<char> fallback_byte(const std::string& token) {
  if (token.size() != 6 || token.compare(0, 3, "<0x") != 0 || token[5] != '>') return std::nullopt;
  const auto digit = [](char character) {
    if (character >= '0' && character <= '9') return character - '0';
    const int letter = character | 0x20;
    return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
  };
  const int high = token[3] == '+' ? 0 : digit(token[3]), low = digit(token[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<char>(static_cast<unsigned char>(16 * high + low));
}

struct Apply {
  Tokens tokens;

  Tokens operator()(const ByteLevelDecoder&) const {
    std::string bytes;
    for (const std::string& token : tokens) append_from_byte_level(token, bytes);
    return {utf8::lossy(bytes)};
  }

  Tokens operator()(const MetaspaceDecoder& space) const {
    Tokens made;
    for (const std::string& token : tokens) {
      made.push_back(replace_all(token, {space.mark, made.empty() && space.drop_first ? "" : " "}));
    }
    return made;
  }

  Tokens operator()(const Replace& replace) const {
    Tokens made;
    for (const std::string& token : tokens) made.push_back(replace_all(token, replace));
    return made;
  }

  Tokens operator()(const ByteFallbackDecoder&) const {
    Tokens made;
    std::string bytes;
    const auto flush = [&] {
      if (utf8::valid(bytes)) {
        if (!bytes.empty()) made.push_back(bytes);
      } else {
        made.insert(made.end(), bytes.size(), utf8::kReplacement);
      }
      bytes.clear();
    };
    for (const std::string& token : tokens) {
      if (const auto byte = fallback_byte(token)) {
        bytes += *byte;
        continue;
      }
      flush();
      made.push_back(token);
    }
    flush();
    return made;
  }

  Tokens operator()(const FuseDecoder&) const { return {joined(tokens)}; }

  Tokens operator()(const StripDecoder& strip) const {
    Tokens made;
    for (const std::string& token : tokens) {
      std::size_t at = 0;
      for (std::size_t cut = 0; cut < strip.start; ++cut, at += strip.content.size()) {
        if (token.compare(at, strip.content.size(), strip.content) != 0) break;
      }
      made.push_back(token.substr(at));
    }
    return made;
  }
};

}  // namespace

std::string decode_tokens(const std::vector<DecoderStep>& steps, Tokens tokens) {
  for (const DecoderStep& step : steps) tokens = std::visit(Apply{std::move(tokens)}, step);
  return joined(tokens);
}

}  // namespace ar
