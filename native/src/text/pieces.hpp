// The text of an answer, piece by piece: what tokens complete, and up to a stop text; the rules of runtime/text.py.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace ar {

// Gives the text of a growing row of tokens; the pieces put together are the text of all of them. A piece is held back
// while it ends in the middle of a character.
class Detokeniser {
 public:
  using Decode = std::function<std::string(const std::vector<int64_t>& ids)>;
  explicit Detokeniser(Decode decode);
  std::string add(int64_t token);  // the text that `token` completes
  std::string finish();            // what is still held back

 private:
  std::string take(bool all);

  Decode decode_;                 // gives valid UTF-8
  std::vector<int64_t> context_;  // tokens whose text is already out, kept because the next ones may lean on them
  std::vector<int64_t> pending_;
};

// Ends an answer at a given text.
class StopTexts {
 public:
  explicit StopTexts(std::vector<std::string> texts);  // throws AR_INPUT_INVALID: an empty one
  std::string add(std::string_view piece);             // what is certain to stay
  std::string finish();                                // what was held back and did not become a stop text
  bool reached() const { return reached_; }

 private:
  std::vector<std::string> texts_;
  std::string held_;
  bool reached_ = false;
};

}  // namespace ar
