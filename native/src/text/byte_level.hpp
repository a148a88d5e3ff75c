// Bytes as printable characters, the alphabet of byte-level BPE.
#pragma once

#include <string>
#include <string_view>

namespace ar {

// Returns each byte of `text` as the character that stands for it.
std::string to_byte_level(std::string_view text);

// Appends the bytes that `token` stands for; its own bytes where a character of it stands for none.
void append_from_byte_level(std::string_view token, std::string& bytes);

}  // namespace ar
