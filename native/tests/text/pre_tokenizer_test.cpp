#include "text/steps.hpp"

#include <gtest/gtest.h>


namespace ar {
namespace {

using Words = std::vector<std::string>;

Words words(const std::vector<PreTokenizerStep>& steps, std::string_view text, bool begins = true) {
  Words found;
  pre_tokenize(steps, text, begins, [&found](std::string_view word) { found.emplace_back(word); });
  return found;
}

TEST(PreTokenizer, NoStepsGiveTheWholeText) {
  EXPECT_EQ(words({}, "a b"), (Words{"a b"}));
  EXPECT_EQ(words({}, ""), Words{});
}

TEST(PreTokenizer, ByteLevel) {
  EXPECT_EQ(words({ByteLevel{false, false}}, "a é"), (Words{"aĠÃ©"}));
  EXPECT_EQ(words({ByteLevel{true, true}}, "a b"), (Words{"Ġa", "Ġb"}));
  EXPECT_EQ(words({ByteLevel{true, false}}, " a"), (Words{"Ġa"}));
  EXPECT_EQ(words({Split{SplitPattern::kQwen2}, ByteLevel{true, false}}, "a1"), (Words{"Ġa", "Ġ1"}));
}

TEST(PreTokenizer, EveryByteHasACharacterOfItsOwn) {
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text(1, static_cast<char>(byte));
    std::string back;
    append_from_byte_level(to_byte_level(text), back);
    EXPECT_EQ(back, text);
  }
  std::string bytes = "x";
  append_from_byte_level("aĠ漢", bytes);  // no byte stands behind the last one: the token's own bytes
  EXPECT_EQ(bytes, "xaĠ漢");
}

Metaspace space(Metaspace::Prepend prepend, bool split) { return {"▁", prepend, split}; }

TEST(PreTokenizer, MetaspaceMarksTheBeginning) {
  using Prepend = Metaspace::Prepend;
  for (const bool begins : {true, false}) {
    EXPECT_EQ(words({space(Prepend::kAlways, false)}, "a b", begins), (Words{"▁a▁b"}));
    EXPECT_EQ(words({space(Prepend::kNever, false)}, "a b", begins), (Words{"a▁b"}));
    EXPECT_EQ(words({space(Prepend::kAlways, false)}, " a", begins), (Words{"▁a"}));
    EXPECT_EQ(words({space(Prepend::kAlways, false)}, "▁a", begins), (Words{"▁a"}));
  }
  EXPECT_EQ(words({space(Prepend::kFirst, false)}, "a b", true), (Words{"▁a▁b"}));
  EXPECT_EQ(words({space(Prepend::kFirst, false)}, "a b", false), (Words{"a▁b"}));
}

TEST(PreTokenizer, MetaspaceSplitsBeforeEachMark) {
  EXPECT_EQ(words({space(Metaspace::Prepend::kAlways, true)}, "ab  c "), (Words{"▁ab", "▁", "▁c", "▁"}));
  EXPECT_EQ(words({space(Metaspace::Prepend::kNever, true)}, "ab c"), (Words{"ab", "▁c"}));
}

TEST(Normalizer, StepsInTheirOrder) {
  EXPECT_EQ(normalize({}, "e\u0301"), "e\u0301");
  EXPECT_EQ(normalize({Nfc{}}, "e\u0301"), "é");
  EXPECT_EQ(normalize({Prepend{"▁"}, Replace{" ", "▁"}}, "a b"), "▁a▁b");
  EXPECT_EQ(normalize({Replace{" ", "▁"}, Prepend{" "}}, "a b"), " a▁b");
  EXPECT_EQ(normalize({Prepend{"▁"}}, ""), "");
  EXPECT_EQ(replace_all("aaa", {"aa", "b"}), "ba");
}

}  // namespace
}  // namespace ar
