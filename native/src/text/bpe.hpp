// Byte pair encoding of one word.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace ar {

struct BpeModel {  // as tokenizer.json has it
  std::vector<std::pair<std::string, uint32_t>> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;  // in the order of their ranks
  std::optional<std::string> unknown;                       // the token of characters that are not in the vocabulary
  bool fuse_unknown = false;                                // one such token for neighbours
  bool byte_fallback = false;                               // their bytes as tokens (<0x0A>) where these are all there
  bool ignore_merges = false;                               // a word that is a token is that token
};

// Immutable once made; may be used by any number of threads.
class Bpe {
 public:
  // Throws AR_BUNDLE_CORRUPT: a token or an id that occurs twice, a merge of or into what is no token.
  explicit Bpe(BpeModel model);
  Bpe(Bpe&&) = default;  // no copies: tables point into the tokens
  Bpe& operator=(Bpe&&) = default;

  // Appends the ids of a word. Takes O(n log n).
  void encode(std::string_view word, std::vector<int64_t>& ids) const;
  std::optional<uint32_t> id(std::string_view token) const;
  const std::string* token(uint32_t id) const;  // null: unknown
  std::size_t size() const { return ids_.size(); }

 private:
  struct Merge {
    uint32_t rank, id;
  };
  struct Symbol;
  class Word;

  void add_merges(const std::vector<std::pair<std::string, std::string>>& merges);
  void add_unknown(std::string_view character, Word& word) const;
  const Merge* merge(uint32_t left, uint32_t right) const;

  std::deque<std::string> tokens_;  // never moved: the tables below point into it
  std::unordered_map<std::string_view, uint32_t> ids_;
  std::unordered_map<uint32_t, const std::string*> by_id_;
  std::unordered_map<uint64_t, Merge> merges_;  // by both ids
  std::vector<std::optional<uint32_t>> bytes_;  // the tokens of byte fallback
  std::optional<std::string> unknown_;
  bool fuse_unknown_, byte_fallback_, ignore_merges_;
};

}  // namespace ar
