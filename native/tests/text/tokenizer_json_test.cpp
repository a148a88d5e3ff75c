// What of tokenizer.json is refused, and by which name.
#include "text/tokenizer_json.hpp"

#include <gtest/gtest.h>

#include "contract/error.hpp"
#include "small_tokenizers.hpp"
#include "text/tokenizer.hpp"

namespace ar {
namespace {

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

// Expects an error of this status whose message names `part`.
void refused(const std::string& json, ar_status status, const std::string& part) {
  try {
    Tokenizer tokenizer(json);
    ADD_FAILURE() << "read: " << json.substr(0, 200);
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), status) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(TokenizerJson, OtherFamiliesAreRefusedByName) {
  const std::string good = small::byte_level(), piece = small::sentence_piece(small::kLegacy);
  const struct {
    const std::string& base;
    const char *from, *to, *path;
  } cases[] = {
      {good, R"({"type":"NFC"})", R"({"type":"NFKC"})", "$.normalizer.type"},
      {good, R"({"type":"NFC"})", R"({"type":"Sequence","normalizers":[{"type":"Lowercase"}]})", "normalizers[0].type"},
      {good, R"("type":"Split")", R"("type":"Whitespace")", "$.pre_tokenizer.pretokenizers[0].type"},
      {good, R"(|\\p{N}|)", R"(|\\p{N}{1,2}|)", "pretokenizers[0].pattern.Regex"},
      {good, R"("behavior":"Isolated")", R"("behavior":"Removed")", "pretokenizers[0].behavior"},
      {good, R"("type":"BPE")", R"("type":"Unigram")", "$.model.type"},
      {good, R"("type":"BPE")", R"("type":"BPE","dropout":0.1)", "$.model.dropout"},
      {good, R"("type":"BPE")", R"("type":"BPE","end_of_word_suffix":"</w>")", "$.model.end_of_word_suffix"},
      {good, R"("type":"BPE")", R"("type":"BPE","novelty":1)", "$.model['novelty']"},
      {good, R"("type":"TemplateProcessing")", R"("type":"RobertaProcessing")", "$.post_processor.type"},
      {good, R"("version":"1.0")", R"("version":"2.0")", "$.version"},
      {good, R"("version":"1.0")", R"("version":"1.0","more":1)", "$['more']"},
      {good, R"("special":false,"normalized":false,"lstrip":false,"rstrip":false,"single_word":false)",
       R"("special":false,"normalized":false,"lstrip":false,"rstrip":false,"single_word":true)", "single_word"},
      {piece, R"({"type":"Fuse"})", R"({"type":"CTC"})", "$.decoder.decoders[2].type"},
      {piece, R"("stop":0)", R"("stop":1)", "$.decoder.decoders[3].stop"},
      {piece, R"("prepend":"▁")", R"("prepend":"a long one")", "$.normalizer.normalizers[0].prepend"},
      {piece, R"({"type":"Prepend","prepend":"▁"})",
       R"({"type":"Replace","pattern":{"String":"a"},"content":"aa"},)"
       R"({"type":"Replace","pattern":{"String":"a"},"content":"aa"})", "$.normalizer.normalizers[2]"},
      {good, R"("behavior":"Isolated","invert":false},)",
       R"("behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true},)",
       "$.pre_tokenizer.pretokenizers[2]"},
      {piece, R"({"String":" "})", R"({"Regex":" "})", "$.normalizer.normalizers[1].pattern"},
      {piece, R"({"String":" "})", R"({"String":""})", "$.normalizer.normalizers[1].pattern.String"},
      {piece, R"("pre_tokenizer":null)",
       R"("pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"first"})", "$.normalizer"},
  };
  for (const auto& each : cases) refused(replaced(each.base, each.from, each.to), AR_ENGINE_UNAVAILABLE, each.path);
}

TEST(TokenizerJson, EndlessAddedTokensAreRefused) {
  const std::string endless = "\"content\":\"" + std::string(1001, 'x') + "\"";
  const std::string json = replaced(small::byte_level(), R"("content":"<tool>")", endless);
  refused(json, AR_ENGINE_UNAVAILABLE, "$.added_tokens[2].content");
}

TEST(TokenizerJson, TheRemedyIsNamed) {
  refused(replaced(small::byte_level(), R"("type":"BPE")", R"("type":"WordPiece")"), AR_ENGINE_UNAVAILABLE, "ids_only");
}

TEST(TokenizerJson, DamagedFilesAreRefused) {
  const std::string good = small::byte_level(), piece = small::sentence_piece(small::kLegacy);
  for (const char* json : {"", "{", "null", "[]", "{}", "\xFF", R"({"added_tokens":[]})",
                           R"({"added_tokens":{},"model":{}})"}) {
    EXPECT_THROW(Tokenizer{json}, Error) << json;
  }
  const struct {
    const std::string& base;
    const char *from, *to, *part;
  } cases[] = {
      {good, R"("a b")", R"("ab")", "merges[0]"},
      {good, R"("a b")", R"("a  b")", "merges[0]"},
      {good, R"("a b")", R"("a zz")", "merges[0]"},
      {good, R"("a b")", R"(["a","b"])", "merges[1]"},
      {good, R"("a b")", R"(7)", "merges[0]"},
      {piece, R"(["▁","a"])", R"(["▁","a","b"])", "merges[0]"},
      {good, R"("ab":256)", R"("ab":255)", "occurs twice"},
      {good, R"("ab":256)", R"("ab":-1)", "$.model.vocab['ab']"},
      {good, R"("ab":256)", R"("ab":2147483648)", "below 2^31"},
      {good, R"("ab":256)", R"("ab":256.0)", "Expected `int`"},
      {good, R"("ab":256)", R"("ab":"256")", "Expected `int`"},
      {good, R"("id":260)", R"("id":270)", "another id"},
      {good, R"("content":"<image>")", R"("content":"<s>")", "$.added_tokens[1]"},
      {good, R"({"SpecialToken":{"id":"<s>")", R"({"SpecialToken":{"id":"<t>")", "special_tokens"},
      {good, R"({"Sequence":{"id":"A")", R"({"Sequence":{"id":"B")", "single[1]"},
      {good, R"("add_prefix_space":false)", R"("add_prefix_space":0)", "Expected `bool`"},
      {piece, R"("content":" ","start")", R"("content":"  ","start")", "one character"},
  };
  for (const auto& each : cases) refused(replaced(each.base, each.from, each.to), AR_BUNDLE_CORRUPT, each.part);
}

TEST(TokenizerJson, DeepNestingIsRefused) {
  for (const int depth : {30, 1'000, 1'000'000}) {
    std::string json(static_cast<std::size_t>(depth), '[');
    EXPECT_THROW(Tokenizer{json}, Error);
    std::string part = R"({"type":"NFC"})";
    if (depth > 30) continue;  // wrapping is quadratic
    for (int i = 0; i < depth; ++i) part = R"({"type":"Sequence","normalizers":[)" + part + "]}";
    EXPECT_THROW(Tokenizer{replaced(small::byte_level(), R"({"type":"NFC"})", part)}, Error);
  }
}

TEST(TokenizerJson, WhatIsTheSameIsRead) {
  const std::string good = small::byte_level();
  const std::vector<int64_t> wanted = Tokenizer(good).encode("it's  12 abc", true);
  for (const auto& [from, to] : std::vector<std::pair<const char*, const char*>>{
           {R"("behavior":"Isolated","invert":false)", R"("behavior":"Removed","invert":true)"},
           {R"("merges":["a b","ab c")", R"("merges":["#version: 0.2","a b","ab c")"},
           {R"("padding":null)", R"("padding":{"strategy":"BatchLongest"})"},
           {R"("type":"BPE")", R"("type":"BPE","dropout":null,"continuing_subword_prefix":"")"},
           {R"({"type":"NFC"})", R"({"type":"Sequence","normalizers":[{"type":"Sequence","normalizers":[]}]})"}}) {
    EXPECT_EQ(Tokenizer(replaced(good, from, to)).encode("it's  12 abc", true), wanted) << to;
  }
}

TEST(TokenizerJson, TemplatesInSequenceWrapEachOther) {
  const std::string good = small::byte_level();
  const std::size_t begin = good.find(R"({"type":"TemplateProcessing")"), end = good.find(",\"decoder\"");
  const std::string part = good.substr(begin, end - begin);
  const std::string both = R"({"type":"Sequence","processors":[)" + part + "," + small::kBytes + "," + part + "]}";
  EXPECT_EQ(Tokenizer(replaced(good, part, both)).leading(), (std::vector<int64_t>{259, 259}));
  EXPECT_TRUE(Tokenizer(replaced(good, part, "null")).leading().empty());
}

}  // namespace
}  // namespace ar
