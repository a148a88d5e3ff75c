// JSON values: what is refused, and what a text holds.
#include "contract/json.hpp"

#include "scratch.hpp"

namespace {

using ar::parse_json;
using scratch::refused;

const char* const kNoJson[] = {
    "",
    "{",
    "[",
    "}",
    "nul",
    "{\"a\":1,}",
    "[1,]",
    "[1 2]",
    "{1:2}",
    "{'a':1}",
    "01",
    "-",
    "+1",
    ".5",
    "1.",
    "1e",
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "\"\xff\"",
    "\"\\ud800\"",
    "\"\\q\"",
    "\"a\nb\"",
    "{} x",
    "{}{}",
    "// c\n{}",
    "\xef\xbb\xbf{}",
    "\"\xed\xa0\x80\"",
    "\"\xc0\x80\"",
    "\"\xf4\x90\x80\x80\"",
    "\"",
    "\x0c{}",
    "{\"a\" 1}",
    "[tru]",
    "\"\\u12g4\"",
    "\"\\ud83dx\"",
    "\xff",
    "--1",
    "0x10",
};

TEST(Json, WhatIsNoJsonIsRefused) {
  for (const char* text : kNoJson) {
    SCOPED_TRACE(text);
    refused(AR_BUNDLE_CORRUPT, "not JSON", [&] { parse_json(text, "here"); });
  }
}

TEST(Json, ZeroBytesAreRefusedWhereverTheyStand) {
  for (const std::string& text : {std::string("{}\0", 3), std::string("\0{}", 3), std::string("\"a\0b\"", 5)})
    refused(AR_BUNDLE_CORRUPT, "zero byte", [&] { parse_json(text, "here"); });
}

TEST(Json, DepthIsLimitedBeforeValuesAreBuilt) {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  parse_json(nested(ar::kMaxJsonDepth), "here");
  for (const std::string& text : {nested(ar::kMaxJsonDepth + 1), nested(100'000), std::string(100'000, '[')})
    refused(AR_BUNDLE_CORRUPT, "nested deeper than 64", [&] { parse_json(text, "here"); });
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  refused(AR_BUNDLE_CORRUPT, "nested deeper than 64", [&] { parse_json(objects, "here"); });
}

TEST(Json, AMessageIsShortWhateverTheTextIs) {
  const std::string message =
      refused(AR_BUNDLE_CORRUPT, "not JSON", [] { parse_json("\"" + std::string(1'000'000, '\x01'), "here"); });
  EXPECT_LT(message.size(), 500u);
}

TEST(Json, AKeyThatStandsTwiceIsKeptTwice) {
  const ar::Json json = parse_json("{\"a\":1,\"a\":2}", "here");
  EXPECT_EQ(std::get<ar::Json::Members>(json.value).size(), 2u);
}

TEST(Json, IntegersOfAnySize) {
  const auto integer = [](const char* text) { return std::get<ar::JsonInteger>(parse_json(text, "here").value); };
  EXPECT_EQ(integer("0").magnitude, 0u);
  EXPECT_FALSE(integer("-0").negative);
  EXPECT_EQ(integer("18446744073709551615").magnitude, UINT64_MAX);
  EXPECT_EQ(integer("-9223372036854775808").magnitude, uint64_t{1} << 63);
  EXPECT_TRUE(integer("-9223372036854775808").negative);
  EXPECT_FALSE(integer("18446744073709551616").fits);
  EXPECT_FALSE(integer("-9223372036854775809").fits);
  EXPECT_TRUE(integer("-9223372036854775809").negative);
  EXPECT_EQ(integer("18446744073709551616").real, 18446744073709551616.0);
  EXPECT_EQ(integer(("1" + std::string(300, '0')).c_str()).real, 1e300);
}

// Returns the schema as digits; 2^64 and more as "more".
std::optional<std::string> schema_number(const std::string& text) {
  const auto schema = ar::schema_number(text);
  if (!schema) return std::nullopt;
  return schema->fits ? std::to_string(schema->magnitude) : "more";
}

TEST(SchemaNumber, IsReadAloneAndFromAnyRecord) {
  const char* const kSeven[] = {
      "{\"schema\":7}",
      " {\"a\":[{\"schema\":1}], \"schema\" : 7 }\n",
      "{\"schema\":1,\"schema\":7}",
      "{\"sch\\u0065ma\":7}",
      "{\"schema\":7,\"x\":1e999}",
      "{\"x\":-1e-999,\"schema\":7}",
      "{\"schema\":7,\"x\":\"\xff\"}",
      "{\"\xff\":0,\"schema\":7}",
      "{\"schema\":7,\"x\":\"1e99999 \\\" 1e99999\"}",
  };
  for (const char* text : kSeven) EXPECT_EQ(schema_number(text), "7") << text;
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  EXPECT_EQ(schema_number("{\"x\":" + deep + ",\"schema\":7}"), "7");
  EXPECT_EQ(schema_number("{\"schema\":7,\"x\":" + std::string(5000, '9') + "}"), "7");
  EXPECT_EQ(schema_number("{\"schema\":1000000000000000000000000000000}"), "more");
}

TEST(SchemaNumber, IsAbsentWhereThereIsNone) {
  const char* const kNone[] = {"",
                               "{",
                               "[]",
                               "[{\"schema\":7}]",
                               "{\"schema\":7",
                               "{\"schema\":7} x",
                               "{\"schema\":7.0}",
                               "{\"schema\":7e0}",
                               "{\"schema\":-7}",
                               "{\"schema\":true}",
                               "{\"schema\":\"7\"}",
                               "{\"schema\":[7]}",
                               "{\"schema\":{\"schema\":7}}",
                               "{\"a\":{\"schema\":7}}",
                               "{\"schema\":7,\"schema\":null}",
                               "\xef\xbb\xbf{\"schema\":7}",
                               "{\"schema\":07}",
                               "{\"schema\":7,\"x\":\"\\q\"}"};
  for (const char* text : kNone) EXPECT_EQ(schema_number(text), std::nullopt) << text;
}

TEST(Json, AnElementIsGivenAsItsText) {
  const std::string text = R"({"b": [1, {"z": 0.25, "a": "\u0000\""}], "b": [[], {"z":1.0,"a":null}]})";
  EXPECT_EQ(ar::json_element(text, "b", 0), "[]");
  EXPECT_EQ(ar::json_element(text, "b", 1), R"({"z":1.0,"a":null})");  // of a key that stands twice, the last
}

}  // namespace
