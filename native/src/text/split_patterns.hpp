// The regular expressions that cut a text into words before BPE, written out by hand.
//
// They are recognised by their spelling: a general engine with look-ahead and Unicode classes would be a larger
// dependency than the three patterns that models use.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace ar {

enum class SplitPattern {
  kQwen2,   // digits one by one
  kLlama3,  // digits by up to three
  kGpt2,    // the pattern that ByteLevel has inside
};

// Returns the pattern with this spelling, or nothing.
std::optional<SplitPattern> find_split_pattern(std::string_view regex);

// Returns the end of the word that begins at `begin`, which is before the end of `text`. Words cover the whole text.
std::size_t word_end(SplitPattern pattern, std::string_view text, std::size_t begin);

}  // namespace ar
