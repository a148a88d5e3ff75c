#include "text/split_patterns.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace ar {
namespace {

using Words = std::vector<std::string>;

Words words(SplitPattern pattern, std::string_view text) {
  Words found;
  for (std::size_t begin = 0, end; begin < text.size(); begin = end) {
    end = word_end(pattern, text, begin);
    found.emplace_back(text.substr(begin, end - begin));
  }
  return found;
}

Words qwen(std::string_view text) { return words(SplitPattern::kQwen2, text); }
Words llama(std::string_view text) { return words(SplitPattern::kLlama3, text); }
Words gpt(std::string_view text) { return words(SplitPattern::kGpt2, text); }

TEST(SplitPatterns, AreKnownByTheirSpelling) {
  EXPECT_EQ(find_split_pattern(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"),
            SplitPattern::kGpt2);
  EXPECT_FALSE(find_split_pattern(""));
  EXPECT_FALSE(find_split_pattern(R"(\s+)"));
}

TEST(SplitPatterns, Contractions) {
  EXPECT_EQ(qwen("it's I'LL we'Ve x'x"), (Words{"it", "'s", " I", "'LL", " we", "'Ve", " x", "'x"}));
  EXPECT_EQ(qwen("it'\u017Fa"), (Words{"it", "'\u017F", "a"}));  // the long s folds to s
  EXPECT_EQ(qwen("'l"), (Words{"'l"}));
  EXPECT_EQ(qwen("'"), (Words{"'"}));
  EXPECT_EQ(gpt("it's I'LL"), (Words{"it", "'s", " I", "'", "LL"}));
  EXPECT_EQ(gpt("''s"), (Words{"''", "s"}));
}

TEST(SplitPatterns, Letters) {
  EXPECT_EQ(qwen("(abc d\u00E9f"), (Words{"(abc", " d\u00E9f"}));
  EXPECT_EQ(qwen("\ta\nb"), (Words{"\ta", "\n", "b"}));
  EXPECT_EQ(gpt("(abc d"), (Words{"(", "abc", " d"}));
}

TEST(SplitPatterns, Digits) {
  EXPECT_EQ(qwen("a 1234"), (Words{"a", " ", "1", "2", "3", "4"}));
  EXPECT_EQ(llama("1234567 8"), (Words{"123", "456", "7", " ", "8"}));
  EXPECT_EQ(gpt("a 1234"), (Words{"a", " 1234"}));
}

TEST(SplitPatterns, Others) {
  EXPECT_EQ(qwen("a ?!\r\n\nb"), (Words{"a", " ?!\r\n\n", "b"}));
  EXPECT_EQ(gpt("a ?!\n"), (Words{"a", " ?!", "\n"}));
}

TEST(SplitPatterns, WhiteSpace) {
  EXPECT_EQ(qwen("a   b"), (Words{"a", "  ", " b"}));
  EXPECT_EQ(qwen("a   "), (Words{"a", "   "}));
  EXPECT_EQ(qwen("a \n \n  b"), (Words{"a", " \n \n", " ", " b"}));
  EXPECT_EQ(qwen(" 1"), (Words{" ", "1"}));
  EXPECT_EQ(qwen("\u3000\u3000a"), (Words{"\u3000", "\u3000a"}));
  EXPECT_EQ(gpt("a \n \n  b"), (Words{"a", " \n \n ", " b"}));
}

}  // namespace
}  // namespace ar
