#include "text/unicode.hpp"

#include <gtest/gtest.h>

#include "contract/utf8.hpp"

namespace ar::unicode {
namespace {

TEST(Unicode, Kinds) {
  for (const char32_t letter : {U'a', U'Z', U'é', U'ſ', U'漢', U'각', U'\U0001D400', U'\U00010D4A'}) {
    EXPECT_TRUE(is_letter(letter)) << static_cast<unsigned>(letter);
    EXPECT_FALSE(is_number(letter) || is_space(letter));
  }
  for (const char32_t number : {U'0', U'9', U'½', U'²', U'Ⅷ', U'٣', U'\U0001D7D8'}) {
    EXPECT_TRUE(is_number(number)) << static_cast<unsigned>(number);
    EXPECT_FALSE(is_letter(number) || is_space(number));
  }
  for (const char32_t other : {U'@', U'[', U'`', U'{', U'/', U':', U'\u0301', U'\u200D', U'\u0378', U'\U0010FFFF'}) {
    EXPECT_FALSE(is_letter(other) || is_number(other) || is_space(other)) << static_cast<unsigned>(other);
  }
}

TEST(Unicode, WhiteSpaceIsNotWhatPythonStrips) {
  for (const char32_t space : {U' ', U'\t', U'\r', U'\u0085', U'\u00A0', U'\u1680', U'\u2009', U'\u2028', U'\u3000'}) {
    EXPECT_TRUE(is_space(space) && is_python_space(space)) << static_cast<unsigned>(space);
  }
  for (const char32_t separator : {U'\x1C', U'\x1D', U'\x1E', U'\x1F'}) {
    EXPECT_TRUE(is_python_space(separator));
    EXPECT_FALSE(is_space(separator));
  }
  for (const char32_t mark : {U'\u200B', U'\uFEFF', U'\u180E', U'\x1B', U'\0'}) EXPECT_FALSE(is_python_space(mark));
  EXPECT_EQ(strip(""), "");
  EXPECT_EQ(strip(" \n\u3000\x1F"), "");
  EXPECT_EQ(strip(" \u200B\u2003a \u00e9\u3000\n"), "\u200B\u2003a \u00e9");
}

TEST(Unicode, Nfc) {
  EXPECT_EQ(nfc(""), "");
  EXPECT_EQ(nfc("plain"), "plain");
  EXPECT_EQ(nfc("cafe\u0301"), "caf\u00E9");
  EXPECT_EQ(nfc("a\u0323\u0307"), "\u1EA1\u0307");
  EXPECT_EQ(nfc("a\u0307\u0323"), "\u1EA1\u0307");        // marks in their order, then composed
  EXPECT_EQ(nfc("\u0301"), "\u0301");                      // nothing to compose with
  EXPECT_EQ(nfc("a\u0315\u0300b"), "\u00E0\u0315b");
  EXPECT_EQ(nfc("\u212B\u2126"), "\u00C5\u03A9");         // singletons
  EXPECT_EQ(nfc("\u0958"), "\u0915\u093C");               // excluded from composition
  EXPECT_EQ(nfc("\u0344"), "\u0308\u0301");
  EXPECT_EQ(nfc("q\u0345\u0301"), "q\u0301\u0345");
}

TEST(Unicode, NfcOfHangul) {
  EXPECT_EQ(nfc("\u1100\u1161"), "\uAC00");
  EXPECT_EQ(nfc("\u1100\u1161\u11A8"), "\uAC01");
  EXPECT_EQ(nfc("\uAC00\u11A8"), "\uAC01");
  EXPECT_EQ(nfc("\uAC00\u11A7"), "\uAC00\u11A7");  // one before the first trailing consonant
  EXPECT_EQ(nfc("\uAC01\u11A8"), "\uAC01\u11A8");
  EXPECT_EQ(nfc("\u1100\u0301\u1161"), "\u1100\u0301\u1161");
  for (char32_t syllable = 0xAC00; syllable <= 0xD7A3; ++syllable) {
    std::string text;
    utf8::append(text, syllable);
    ASSERT_EQ(nfc(text), text);
  }
}

TEST(Unicode, NfcTwiceIsNfcOnce) {
  for (char32_t character = 0; character < 0x30000; ++character) {
    if (character == 0xD800) character = 0xE000;
    std::string text = "a\u0315";
    utf8::append(text, character);
    text += "\u0316\u1161";
    const std::string once = nfc(text);
    ASSERT_EQ(nfc(once), once) << static_cast<unsigned>(character);
  }
}

}  // namespace
}  // namespace ar::unicode
