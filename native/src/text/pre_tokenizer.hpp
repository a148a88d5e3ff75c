// Cutting a stretch of text into the words that BPE works on.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/split_patterns.hpp"

namespace ar {

struct Split {
  SplitPattern pattern;
};
struct ByteLevel {
  bool add_prefix_space;
  bool use_regex;  // cuts by GPT-2's pattern
};
struct Metaspace {
  enum class Prepend { kFirst, kAlways, kNever };
  std::string mark;  // one character, in place of the space
  Prepend prepend;
  bool split;
};
using PreTokenizerStep = std::variant<Split, ByteLevel, Metaspace>;

// Calls `word` with each word of `text`, in order. `begins`: the text stands at the beginning of what is encoded.
void pre_tokenize(const std::vector<PreTokenizerStep>& steps, std::string_view text, bool begins,
                  const std::function<void(std::string_view)>& word);

}  // namespace ar
