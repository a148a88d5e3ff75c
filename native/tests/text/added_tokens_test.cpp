#include "text/added_tokens.hpp"

#include <gtest/gtest.h>

namespace ar {
namespace {

using Pieces = std::vector<std::string>;

// "text", or "#id".
Pieces pieces(const AddedTokens& tokens, std::string_view text) {
  Pieces found;
  for (const AddedTokens::Piece& piece : tokens.cut(text)) {
    found.push_back(piece.id ? "#" + std::to_string(*piece.id) : std::string(piece.text));
  }
  return found;
}

AddedToken token(int64_t id, const std::string& content, bool special = false) {
  AddedToken made;
  made.id = id;
  made.content = content;
  made.special = special;
  return made;
}

AddedTokens of(const std::vector<AddedToken>& all) {
  AddedTokens tokens;
  for (const AddedToken& each : all) EXPECT_TRUE(tokens.add(each.content, each));
  return tokens;
}

TEST(AddedTokens, LeftmostThenLongest) {
  const AddedTokens tokens = of({token(1, "<a"), token(2, "<a>"), token(3, "a>b")});
  EXPECT_EQ(pieces(tokens, "x<a>b<a"), (Pieces{"x", "#2", "b", "#1"}));
  EXPECT_EQ(pieces(tokens, "a>b"), (Pieces{"#3"}));
  EXPECT_EQ(pieces(tokens, ""), Pieces{});
  EXPECT_EQ(pieces(AddedTokens(), "<a>"), (Pieces{"<a>"}));
}

TEST(AddedTokens, SpecialOnesStayTextAndHideWhatIsInside) {
  const AddedTokens tokens = of({token(1, "<s>x", true), token(2, "s>"), token(3, "x")});
  EXPECT_EQ(pieces(tokens, "<s>x<s>yx"), (Pieces{"<s>x<", "#2", "y", "#3"}));
}

TEST(AddedTokens, WhiteSpaceIsTakenAlong) {
  AddedToken left = token(1, "<l>"), right = token(2, "<r>");
  left.strip_left = right.strip_right = true;
  const AddedTokens tokens = of({left, right});
  EXPECT_EQ(pieces(tokens, "a \u3000<l> b<r>\n c"), (Pieces{"a", "#1", " b", "#2", "c"}));
  EXPECT_EQ(pieces(tokens, "<r>  <l> "), (Pieces{"#2", "#1", " "}));
}

TEST(AddedTokens, ATokenOfSpacesThatStripsTakesLinearTime) {
  AddedToken spaces = token(1, "  ");
  spaces.strip_left = spaces.strip_right = true;
  const auto found = of({spaces}).cut(std::string(2'000'000, ' '));
  EXPECT_EQ(found.size(), 1'000'000u);
}

TEST(AddedTokens, OneSpellingOnce) {
  AddedTokens tokens = of({token(1, "<a>")});
  EXPECT_FALSE(tokens.add("<a>", token(2, "<a>")));
}

}  // namespace
}  // namespace ar
