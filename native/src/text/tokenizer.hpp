// Text to token ids and back, for the two families of tokenizer.json that models of this project use.
//
// What it is: byte-level BPE with NFC and a split pattern (Qwen2, Llama 3), and SentencePiece-like BPE with byte
// fallback (Llama 2, Vicuna). Families are recognised by their parts; everything else is refused with the part's name.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/tokenizer_json.hpp"

namespace ar {

class Tokenizer {
 public:
  // Throws AR_BUNDLE_CORRUPT (not a tokenizer.json) or AR_ENGINE_UNAVAILABLE (asks for what is not supported here).
  explicit Tokenizer(std::string_view tokenizer_json) : Tokenizer(read_tokenizer(tokenizer_json)) {}

  // Returns the ids of a plain text, without the tokenizer's own leading or trailing tokens. What spells a special
  // token stays text (`encode_special_tokens`). `begins` false encodes a stretch that does not begin a text: no mark of
  // the beginning is put before it (prepend_scheme "first" counts as "never"). Throws AR_INPUT_INVALID: not UTF-8.
  std::vector<int64_t> encode(std::string_view text, bool begins) const;
  // Returns the text of `ids`, special tokens left out; ids that the tokenizer does not know have no text.
  std::string decode(const std::vector<int64_t>& ids) const;
  // Returns the ids that the tokenizer itself puts before a text.
  const std::vector<int64_t>& leading() const { return leading_; }
  // Special added tokens by their text.
  const std::map<std::string, int64_t>& specials() const { return specials_; }
  // Those that user text must not become, by id: with a letter or digit, and not what the model calls unknown.
  const std::map<int64_t, std::string>& barred() const { return barred_; }

 private:
  explicit Tokenizer(TokenizerParts parts);
  void add(const std::vector<AddedToken>& added);
  void encode_plain(std::string_view text, bool begins, std::vector<int64_t>& ids) const;
  const std::string* spelling(int64_t id) const;  // null: unknown

  std::vector<NormalizerStep> normalizer_;
  std::vector<PreTokenizerStep> pre_tokenizer_;
  std::optional<std::vector<DecoderStep>> decoder_;
  std::vector<int64_t> leading_;
  std::optional<std::string> unknown_;
  Bpe bpe_;
  AddedTokens before_, after_;                          // normalising
  std::unordered_map<int64_t, std::string> spellings_;  // of added tokens, as they are decoded
  std::map<std::string, int64_t> specials_;
  std::map<int64_t, std::string> barred_;
};

}  // namespace ar
