// From conversations to token ids: the rule of allrounder/chat/tokenization.py, for chat templates that are literal
// strings, and for text that a program rendered itself.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "contract/manifest.hpp"
#include "images/planning.hpp"
#include "text/added_tokens.hpp"
#include "text/tokenizer.hpp"

namespace ar {

struct Part {
  bool is_image = false;
  std::string text;  // of a part that is no image
};

struct Message {
  std::string role;
  std::vector<Part> parts;
};

// Tokenises conversations and decodes answers; may be used by any number of threads.
class Prompter {
 public:
  // Throws AR_BUNDLE_CORRUPT: the tokenizer has no image token, or no tokens for a text.
  Prompter(Tokenizer tokenizer, ChatTemplate chat);

  // Returns the ids of a conversation, with one placeholder per image. Throws AR_INPUT_INVALID: no message, a role that
  // the template does not know, an empty user message, a text that is not UTF-8; a template that is no literal strings;
  // or the tokenizer's model makes a control token of a text.
  std::vector<int64_t> ids(const std::vector<Message>& messages) const;
  // Returns the ids of rendered text, in which control tokens are control tokens: no text of strangers goes into it.
  // Throws AR_INPUT_INVALID: not UTF-8; or the tokenizer's model makes a control token of what spells none.
  std::vector<int64_t> rendered_ids(std::string_view text) const;
  // Returns the ids in the place of an image's placeholder: those of texts, and the placeholder's for each image token.
  std::vector<int64_t> image_ids(const images::Content& content, int64_t image_token_id) const;
  std::string decode(const std::vector<int64_t>& ids) const { return tokenizer_.decode(ids); }
  // Checks the golden prompts (the content of tokenizer/golden.jsonl): their messages; where the template is no literal
  // strings, or a content is a text alone, their rendered texts. Throws AR_BUNDLE_CORRUPT: they cannot be read, there
  // are none, or they give other ids.
  void check(std::string_view golden, const std::string& where) const;

 private:
  class Script;

  void write(const Message& message, const std::string& where, Script& script) const;
  std::vector<int64_t> encode(const Script& script) const;

  Tokenizer tokenizer_;
  ChatTemplate chat_;
  AddedTokens controls_;
};

}  // namespace ar
