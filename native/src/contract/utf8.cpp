#include "contract/utf8.hpp"

#include <cstdint>
#include <utility>

namespace ar::utf8 {
namespace {

uint8_t byte(std::string_view text, std::size_t at) { return static_cast<uint8_t>(text[at]); }
bool continues(std::string_view text, std::size_t at) { return (byte(text, at) & 0xC0) == 0x80; }

// What a first byte promises: how many bytes, and the bounds of the second (overlong forms, surrogates and what lies
// beyond U+10FFFF fail there).
struct Lead {
  std::size_t length;
  uint8_t low, high;
};

Lead lead(uint8_t first) {
  if (first < 0x80) return {1, 0, 0};
  if (first < 0xC2) return {0, 0, 0};
  if (first < 0xE0) return {2, 0x80, 0xBF};
  if (first == 0xE0) return {3, 0xA0, 0xBF};
  if (first == 0xED) return {3, 0x80, 0x9F};
  if (first < 0xF0) return {3, 0x80, 0xBF};
  if (first == 0xF0) return {4, 0x90, 0xBF};
  if (first < 0xF4) return {4, 0x80, 0xBF};
  if (first == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// Returns how many bytes at `at` are the beginning of a character, at least 1, and whether it is whole.
std::pair<std::size_t, bool> beginning(std::string_view text, std::size_t at) {
  const Lead want = lead(byte(text, at));
  std::size_t length = 1;
  for (; length < want.length && at + length < text.size(); ++length) {
    const uint8_t follows = byte(text, at + length);
    const bool fits = length == 1 ? follows >= want.low && follows <= want.high : (follows & 0xC0) == 0x80;
    if (!fits) break;
  }
  return {length, length == want.length};
}

}  // namespace

std::size_t valid_length(std::string_view text, std::size_t at) {
  if (at >= text.size()) return 0;
  const auto [length, whole] = beginning(text, at);
  return whole ? length : 0;
}

bool valid(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = valid_length(text, at);
    if (length == 0) return false;
    at += length;
  }
  return true;
}

char32_t next(std::string_view text, std::size_t& at) {
  const uint8_t first = byte(text, at++);
  if (first < 0x80) return first;
  const int more = first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
  char32_t value = first & (0x3Fu >> more);
  for (int i = 0; i < more; ++i) value = (value << 6) | (byte(text, at++) & 0x3Fu);
  return value;
}

char32_t previous(std::string_view text, std::size_t& at) {
  do --at;
  while (continues(text, at));
  std::size_t begin = at;
  return next(text, begin);
}

void append(std::string& text, char32_t character) {
  const auto put = [&text](char32_t value) { text += static_cast<char>(static_cast<uint8_t>(value)); };
  if (character < 0x80) return put(character);
  if (character < 0x800) {
    put(0xC0 | (character >> 6));
  } else {
    if (character < 0x10000) {
      put(0xE0 | (character >> 12));
    } else {
      put(0xF0 | (character >> 18));
      put(0x80 | ((character >> 12) & 0x3F));
    }
    put(0x80 | ((character >> 6) & 0x3F));
  }
  put(0x80 | (character & 0x3F));
}

std::size_t count(std::string_view text) {
  std::size_t characters = 0;
  for (std::size_t at = 0; at < text.size(); ++at) characters += !continues(text, at);
  return characters;
}

std::string_view after(std::string_view text, std::size_t characters) {
  std::size_t at = 0;
  for (; at < text.size(); ++at) {
    if (!continues(text, at) && characters-- == 0) break;
  }
  return text.substr(at);
}

std::string lossy(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  for (std::size_t at = 0; at < bytes.size();) {
    const auto [length, whole] = beginning(bytes, at);
    text += whole ? bytes.substr(at, length) : std::string_view(kReplacement);
    at += length;
  }
  return text;
}

}  // namespace ar::utf8
