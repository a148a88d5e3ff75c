// SHA-256 (FIPS 180-4) of texts of a few megabytes at most: a manifest, a graph without its weights.
#pragma once

#include <string>
#include <string_view>

namespace ar {

// Returns the digest's 64 lower-case digits.
std::string sha256_hex(std::string_view data);

}  // namespace ar
