// What a tokenizer does to text around BPE, step by step: normalising it, cutting it into words, and joining tokens to
// text again.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/split_patterns.hpp"

namespace ar {

// ---- What is done to a stretch of text before it is cut into words ----

struct Nfc {};
struct Prepend {  // before a text that is not empty
  std::string text;
};
struct Replace {
  std::string from, to;  // `from` is not empty
};
using NormalizerStep = std::variant<Nfc, Prepend, Replace>;

std::string replace_all(std::string_view text, const Replace& replace);
std::string normalize(const std::vector<NormalizerStep>& steps, std::string_view text);

// ---- The alphabet of byte-level BPE: bytes as printable characters ----

// Returns each byte of `text` as its character.
std::string to_byte_level(std::string_view text);

// Appends the bytes that `token` means; its own bytes where a character of it means none.
void append_from_byte_level(std::string_view token, std::string& bytes);

// ---- Cutting a stretch of text into the words that BPE works on ----

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

// Calls `word` with each word of `text`, in order. `begins`: the text is the beginning of what is encoded.
void pre_tokenize(const std::vector<PreTokenizerStep>& steps, std::string_view text, bool begins,
                  const std::function<void(std::string_view)>& word);

// ---- From tokens to text ----

struct ByteLevelDecoder {};  // bytes of all tokens together; what is not UTF-8 is U+FFFD
struct MetaspaceDecoder {
  std::string mark;  // becomes a space,
  bool drop_first;   // or nothing in the first token
};
struct ByteFallbackDecoder {};  // runs of tokens like <0x0A> are bytes; U+FFFD for each where a run is not UTF-8
struct FuseDecoder {};
struct StripDecoder {
  std::string content;  // one character
  std::size_t start;    // at most so many are taken from the beginning of each token
};
using DecoderStep =
    std::variant<ByteLevelDecoder, MetaspaceDecoder, Replace, ByteFallbackDecoder, FuseDecoder, StripDecoder>;

// Returns the text of `tokens`, which are valid UTF-8.
std::string decode_tokens(const std::vector<DecoderStep>& steps, std::vector<std::string> tokens);

}  // namespace ar
