#include "contract/utf8.hpp"

#include <gtest/gtest.h>

namespace ar::utf8 {
namespace {

TEST(Utf8, EveryCharacterIsReadAsItWasWritten) {
  for (char32_t character = 0; character < 0x110000; ++character) {
    if (character == 0xD800) character = 0xE000;
    std::string text = "a";
    append(text, character);
    std::size_t at = 1;
    ASSERT_EQ(valid_length(text, 1), text.size() - 1) << std::hex << static_cast<unsigned>(character);
    ASSERT_EQ(next(text, at), character);
    ASSERT_EQ(at, text.size());
    ASSERT_EQ(previous(text, at), character);
    ASSERT_EQ(at, 1u);
    ASSERT_EQ(count(text), 2u);
    ASSERT_EQ(after(text, 2), "");
  }
}

TEST(Utf8, WhatIsNoCharacterIsRefused) {
  for (const char* bytes : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
                            "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xC3", "\xE2\x82", "\xF0\x9F\x98"}) {
    EXPECT_FALSE(valid(bytes)) << lossy(bytes);
    EXPECT_FALSE(valid(std::string("a") + bytes + "b"));
    EXPECT_EQ(valid_length(bytes, 0), 0u);
  }
}

TEST(Utf8, BrokenBytesBecomeOneReplacementForEachBeginning) {
  const std::string one = kReplacement;
  EXPECT_EQ(lossy("a\xC3z"), "a" + one + "z");
  EXPECT_EQ(lossy("\xE2\x82z\xF0\x9F\x98"), one + "z" + one);
  EXPECT_EQ(lossy("\xED\xA0\x80"), one + one + one);  // a surrogate is no beginning
  EXPECT_EQ(lossy("\xF0\x80\x80\x80"), one + one + one + one);
  EXPECT_EQ(lossy("\xC3\xC3\xA9"), one + "é");
}

}  // namespace
}  // namespace ar::utf8
