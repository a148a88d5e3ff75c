// From a question to token ids: the rule of src/allrounder/tokenization.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "contract/manifest.hpp"
#include "text/tokenizer.hpp"

namespace ar {

struct PromptIds {
  std::vector<int64_t> prefix_ids;  // before the image
  std::vector<int64_t> suffix_ids;  // and after it
};

// Tokenises questions and decodes answers; may be used by any number of threads.
class Prompter {
 public:
  Prompter(Tokenizer tokenizer, const PromptTemplate& prompt);

  // Throws AR_INPUT_INVALID: empty, only white space (as Python's str.strip sees it), or not UTF-8; or the tokenizer's
  // model makes a control token of it.
  PromptIds ids(std::string_view question) const;
  std::string decode(const std::vector<int64_t>& ids) const { return tokenizer_.decode(ids); }
  // Checks the golden pairs (the content of tokenizer/golden.jsonl). Throws AR_BUNDLE_CORRUPT.
  void check(std::string_view golden, const std::string& where) const;

 private:
  struct Piece {
    std::string text;
    int64_t id;  // negative: plain text
  };
  static std::vector<Piece> cut(std::string_view text, const Tokenizer& tokenizer);
  std::vector<int64_t> encode(const std::vector<Piece>& pieces, bool begins) const;
  void refuse_formed(const std::vector<Piece>& pieces, const std::vector<int64_t>& ids) const;

  Tokenizer tokenizer_;
  std::vector<Piece> before_, after_;
  std::vector<int64_t> prefix_;
};

}  // namespace ar
