// From tokens to text.
#pragma once

#include <cstddef>
#include <string>
#include <variant>
#include <vector>

#include "text/normalizer.hpp"

namespace ar {

struct ByteLevelDecoder {};  // bytes of all tokens together; what is not UTF-8 is U+FFFD
struct MetaspaceDecoder {
  std::string mark;       // becomes a space,
  bool drop_first;        // or nothing in the first token
};
struct ByteFallbackDecoder {};  // runs of tokens like <0x0A> are bytes; U+FFFD for each where a run is not UTF-8
struct FuseDecoder {};
struct StripDecoder {
  std::string content;    // one character
  std::size_t start;      // at most so many are taken from the beginning of each token
};
using DecoderStep =
    std::variant<ByteLevelDecoder, MetaspaceDecoder, Replace, ByteFallbackDecoder, FuseDecoder, StripDecoder>;

// Returns the text of `tokens`, which are valid UTF-8.
std::string decode_tokens(const std::vector<DecoderStep>& steps, std::vector<std::string> tokens);

}  // namespace ar
