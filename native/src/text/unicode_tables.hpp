// The generated tables: see tools/unicode_tables.py, which writes unicode_tables.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ar::unicode {

// Flat arrays of ascending rows; the number of rows follows each.
extern const std::uint32_t kLetters[];  // first, last
extern const std::size_t kLettersCount;
extern const std::uint32_t kNumbers[];  // first, last
extern const std::size_t kNumbersCount;
extern const std::uint32_t kCombining[];  // first, last, class
extern const std::size_t kCombiningCount;
extern const std::uint32_t kSingles[];  // character, what it decomposes into
extern const std::size_t kSinglesCount;
extern const std::uint32_t kPairs[];  // character, first part, second part
extern const std::size_t kPairsCount;
extern const std::uint32_t kCompositions[];  // rows of kPairs that compose again, ascending by their parts
extern const std::size_t kCompositionsCount;

}  // namespace ar::unicode
