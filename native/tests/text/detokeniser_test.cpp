#include "text/pieces.hpp"

#include <gtest/gtest.h>

#include "small_tokenizers.hpp"
#include "text/tokenizer.hpp"

namespace ar {
namespace {

using Ids = std::vector<int64_t>;
using Pieces = std::vector<std::string>;

Pieces pieces(const Tokenizer& tokenizer, const Ids& ids) {
  Detokeniser stream([&tokenizer](const Ids& some) { return tokenizer.decode(some); });
  Pieces found;
  for (const int64_t id : ids) found.push_back(stream.add(id));
  found.push_back(stream.finish());
  return found;
}

TEST(Detokeniser, ACharacterComesWhenItIsComplete) {
  const Tokenizer tokenizer(small::byte_level());
  EXPECT_EQ(pieces(tokenizer, {'a', 0xF0, 0x9F, 0x98, 0x80, 'b'}), (Pieces{"a", "", "", "", "😀", "b", ""}));
}

TEST(Detokeniser, AnUnfinishedCharacterComesAtTheEnd) {
  const Tokenizer tokenizer(small::byte_level());
  EXPECT_EQ(pieces(tokenizer, {'a', 0xC3}), (Pieces{"a", "", "\uFFFD"}));
  EXPECT_EQ(pieces(tokenizer, {0xC3, 'a'}), (Pieces{"", "\uFFFDa", ""}));
}

TEST(Detokeniser, SpecialTokensHaveNoText) {
  const Tokenizer tokenizer(small::byte_level());
  EXPECT_EQ(pieces(tokenizer, {259, 'a', 260}), (Pieces{"", "a", "", ""}));
}

TEST(Detokeniser, ALeadingSpaceIsStrippedOnceOnly) {
  const Tokenizer tokenizer(small::sentence_piece(small::kLegacy));
  EXPECT_EQ(pieces(tokenizer, {263, 262, 3 + 0xC3, 3 + 0xA9, 262}), (Pieces{"ab", " a", "", "é", " a", ""}));
}

}  // namespace
}  // namespace ar
