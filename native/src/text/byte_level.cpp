#include "text/byte_level.hpp"

#include <array>
#include <cstdint>

#include "text/utf8.hpp"

namespace ar {
namespace {

constexpr char32_t kMoved = 0x100;  // bytes that are not printable in Latin-1 stand from here on, in their order

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int, kMoved + 68> bytes;  // -1: the character stands for no byte

  Alphabet() {
    bytes.fill(-1);
    char32_t moved = kMoved;
    for (char32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
      const char32_t character = printable ? byte : moved++;
      utf8::append(characters[byte], character);
      bytes[character] = static_cast<int>(byte);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet table;
  return table;
}

}  // namespace

std::string to_byte_level(std::string_view text) {
  const Alphabet& table = alphabet();
  std::string mapped;
  mapped.reserve(text.size() * 2);
  for (const char byte : text) mapped += table.characters[static_cast<uint8_t>(byte)];
  return mapped;
}

void append_from_byte_level(std::string_view token, std::string& bytes) {
  const Alphabet& table = alphabet();
  const std::size_t before = bytes.size();
  for (std::size_t at = 0; at < token.size();) {
    const char32_t character = utf8::next(token, at);
    const int byte = character < table.bytes.size() ? table.bytes[character] : -1;
    if (byte < 0) {
      bytes.resize(before);
      bytes += token;
      return;
    }
    bytes += static_cast<char>(static_cast<uint8_t>(byte));
  }
}

}  // namespace ar
