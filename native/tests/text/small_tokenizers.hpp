// Small tokenizers of each family as tokenizer.json, for tests and the fuzz target.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "text/steps.hpp"

namespace ar::small {

inline std::string json_string(const std::string& text) { return nlohmann::json(text).dump(); }

inline std::string added(const std::string& content, int id, bool special, const std::string& more = "") {
  return "{\"id\":" + std::to_string(id) + ",\"content\":" + json_string(content) + ",\"special\":" +
         (special ? "true" : "false") + (more.empty() ? R"(,"normalized":false,"lstrip":false,"rstrip":false)" : more) +
         ",\"single_word\":false}";
}

inline std::string vocabulary(const std::vector<std::string>& tokens) {
  std::string text;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    text += (i ? "," : "") + json_string(tokens[i]) + ":" + std::to_string(i);
  }
  return "{" + text + "}";
}

inline constexpr const char* kQwen2Split =
    R"({"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|)"
    R"( ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false})";
inline constexpr const char* kBytes =
    R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false})";

// 256 bytes, 256 "ab", 257 "abc", 258 " a", 259 <s>, 260 <image>, 261 <tool>.
inline std::string byte_level() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(to_byte_level(std::string(1, static_cast<char>(byte))));
  const std::string space = to_byte_level(" ");
  for (const std::string& token : {std::string("ab"), std::string("abc"), space + "a"}) tokens.push_back(token);
  return R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[)" + added("<s>", 259, true) + "," +
         added("<image>", 260, true) + "," + added("<tool>", 261, false) +
         R"(],"normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"Sequence","pretokenizers":[)" + kQwen2Split + "," +
         kBytes + R"(]},"post_processor":{"type":"TemplateProcessing","single":[)" +
         R"({"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],)" +
         R"("special_tokens":{"<s>":{"id":"<s>","ids":[259],"tokens":["<s>"]}}},"decoder":)" + kBytes +
         R"(,"model":{"type":"BPE","vocab":)" + vocabulary(tokens) +
         R"(,"merges":["a b","ab c",")" + space + R"( a"]}})";
}

inline constexpr const char* kLegacy =
    R"("normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},)"
    R"({"type":"Replace","pattern":{"String":" "},"content":"▁"}]},"pre_tokenizer":null,)";
inline constexpr const char* kMetaspaceFirst =
    R"("normalizer":null,"pre_tokenizer":{"type":"Metaspace","replacement":"▁",)"
    R"("prepend_scheme":"first","split":false},)";

// 0 <unk>, 1 <s>, 2 </s>, 3 to 258 bytes, 259 "▁", 260 "a", 261 "b", 262 "▁a", 263 "▁ab".
inline std::string sentence_piece(const std::string& steps) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  for (int byte = 0; byte < 256; ++byte) {
    const char* digits = "0123456789ABCDEF";
    tokens.push_back(std::string("<0x") + digits[byte / 16] + digits[byte % 16] + ">");
  }
  for (const char* token : {"▁", "a", "b", "▁a", "▁ab"}) tokens.emplace_back(token);
  return R"({"version":"1.0","added_tokens":[)" + added("<unk>", 0, true) + "," + added("<s>", 1, true) + "," +
         added("</s>", 2, true) + "]," + steps +
         R"("post_processor":null,"decoder":{"type":"Sequence","decoders":[)"
         R"({"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},)"
         R"({"type":"Strip","content":" ","start":1,"stop":0}]},"model":{"type":"BPE","unk_token":"<unk>",)"
         R"("fuse_unk":true,"byte_fallback":true,"vocab":)" +
         vocabulary(tokens) + R"(,"merges":[["▁","a"],["▁a","b"]]}})";
}

}  // namespace ar::small
