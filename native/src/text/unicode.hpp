// What the tokenizer asks of Unicode: kinds of characters, and normalisation form C.
#pragma once

#include <string>
#include <string_view>

namespace ar::unicode {

bool is_letter(char32_t character);  // \p{L}
bool is_number(char32_t character);  // \p{N}
bool is_space(char32_t character);   // \s: the property White_Space

// As Python's str.isspace: White_Space and the four separators of ASCII (U+001C to U+001F).
bool is_python_space(char32_t character);
// Returns what Python's str.strip leaves of a valid text.
std::string_view strip(std::string_view text);

// Returns a valid text in normalisation form C.
std::string nfc(std::string_view text);

}  // namespace ar::unicode
