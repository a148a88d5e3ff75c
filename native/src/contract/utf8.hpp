// UTF-8: reading, writing and checking it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ar::utf8 {

inline constexpr const char* kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// Returns the bytes of the valid character at `at`, or 0 where there is none.
std::size_t valid_length(std::string_view text, std::size_t at);
bool valid(std::string_view text);

// Reads the character at `at` and moves behind it. The text is valid and `at` is before a character.
char32_t next(std::string_view text, std::size_t& at);
// Moves `at` back by one character and reads it. The text is valid and `at` is behind a character.
char32_t previous(std::string_view text, std::size_t& at);
void append(std::string& text, char32_t character);

// Returns how many characters a valid text has.
std::size_t count(std::string_view text);
// Returns what follows the first `characters` characters of a valid text.
std::string_view after(std::string_view text, std::size_t characters);

// Returns `bytes` with U+FFFD for what is not valid: one for each longest beginning of a character, as Rust, Python
// and browsers do.
std::string lossy(std::string_view bytes);

}  // namespace ar::utf8
