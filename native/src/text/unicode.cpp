#include "text/unicode.hpp"

#include <cstddef>
#include <cstdint>

#include "text/unicode_tables.hpp"
#include "text/utf8.hpp"

namespace ar::unicode {
namespace {

bool within(const std::uint32_t* ranges, std::size_t count, char32_t character) {
  std::size_t low = 0, high = count;
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    if (character > ranges[2 * middle + 1]) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < count && character >= ranges[2 * low];
}

}  // namespace

bool is_letter(char32_t character) {
  if (character < 0x80) return (character | 0x20) >= 'a' && (character | 0x20) <= 'z';
  return within(kLetters, kLettersCount, character);
}

bool is_number(char32_t character) {
  if (character < 0x80) return character >= '0' && character <= '9';
  return within(kNumbers, kNumbersCount, character);
}

bool is_space(char32_t character) {
  if (character < 0x80) return character == ' ' || (character >= 0x09 && character <= 0x0D);
  return character == 0x85 || character == 0xA0 || character == 0x1680 || character == 0x2028 || character == 0x2029 ||
         (character >= 0x2000 && character <= 0x200A) || character == 0x202F || character == 0x205F ||
         character == 0x3000;
}

bool is_python_space(char32_t character) { return is_space(character) || (character >= 0x1C && character <= 0x1F); }

bool is_blank(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    if (!is_python_space(utf8::next(text, at))) return false;
  }
  return true;
}

}  // namespace ar::unicode
