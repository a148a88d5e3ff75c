// Added tokens: texts that are found before anything else and never cut.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace ar {

struct AddedToken {  // as tokenizer.json has it
  int64_t id = 0;
  std::string content;
  bool strip_left = false, strip_right = false;  // takes the white space beside it along
  bool normalized = false;                       // is searched in the normalised text, in its own normalised form
  bool special = false;
};

// Finds the tokens of one kind (`normalized` or not) in a text: leftmost first, the longest where several begin at one
// place. What spells a special token is passed over, and nothing else is found inside it.
class AddedTokens {
 public:
  struct Piece {
    std::string_view text;
    std::optional<int64_t> id;  // nothing: plain text
  };

  // Adds a token that is spelled `text`. Returns false where one is spelled so already.
  bool add(std::string_view text, const AddedToken& token);
  // Returns `text` in pieces, none of them empty but those of tokens.
  std::vector<Piece> cut(std::string_view text) const;

 private:
  struct Found {
    std::size_t length;
    const AddedToken* token;
  };
  std::optional<Found> longest(std::string_view text) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<uint64_t, std::size_t> edges_;    // a trie: node and byte to node; 0 is the root
  std::unordered_map<std::size_t, std::size_t> ends_;  // node to token
  std::size_t nodes_ = 1;
};

}  // namespace ar
