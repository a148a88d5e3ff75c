#include "text/tokenizer.hpp"

#include <limits>
#include <utility>

#include "contract/error.hpp"
#include "text/unicode.hpp"
#include "contract/utf8.hpp"

namespace ar {
namespace {

// Returns whether a text says something: it holds a letter or a digit.
bool has_word(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const char32_t character = utf8::next(text, at);
    if (unicode::is_letter(character) || unicode::is_number(character)) return true;
  }
  return false;
}

}  // namespace

Tokenizer::Tokenizer(TokenizerParts parts)
    : normalizer_(std::move(parts.normalizer)),
      pre_tokenizer_(std::move(parts.pre_tokenizer)),
      decoder_(std::move(parts.decoder)),
      leading_(std::move(parts.leading)),
      unknown_(parts.model.unknown),
      bpe_(std::move(parts.model)) {
  add(parts.added);
}

// Added tokens that the vocabulary lacks get the ids behind it, in their order; a file that says otherwise would be
// read differently by `tokenizers`.
void Tokenizer::add(const std::vector<AddedToken>& added) {
  auto next = static_cast<int64_t>(bpe_.size());
  for (std::size_t i = 0; i < added.size(); ++i) {
    const AddedToken& token = added[i];
    if (token.content.empty()) continue;
    const auto refuse = [&](const char* what, const std::string& got, const std::string& wanted) {
      throw Error(AR_BUNDLE_CORRUPT, what,
                  {"tokenizer/tokenizer.json at `$.added_tokens[" + std::to_string(i) + "]`", got, wanted,
                   "build the bundle again"});
    };
    const auto known = bpe_.id(token.content);
    const int64_t id = known ? int64_t{*known} : next++;
    if (id != token.id) refuse("an added token has another id", std::to_string(token.id), std::to_string(id));
    const std::string spelling = token.normalized ? normalize(normalizer_, token.content) : token.content;
    AddedTokens& place = token.normalized ? after_ : before_;
    const bool fresh = spellings_.emplace(id, spelling).second && !spelling.empty() && place.add(spelling, token);
    if (!fresh) refuse("two added tokens are spelled alike", quoted(token.content), "each one once");
    if (!token.special) continue;
    specials_.emplace(token.content, id);
    if (token.content != unknown_ && has_word(token.content)) barred_.emplace(id, token.content);
  }
}

void Tokenizer::encode_plain(std::string_view text, bool begins, std::vector<int64_t>& ids) const {
  const std::string normalized = normalize(normalizer_, text);
  for (const AddedTokens::Piece& piece : after_.cut(normalized)) {
    if (piece.id) {
      ids.push_back(*piece.id);
      continue;
    }
    const bool at_start = begins && piece.text.data() == normalized.data();
    pre_tokenize(pre_tokenizer_, piece.text, at_start, [&](std::string_view word) { bpe_.encode(word, ids); });
  }
}

const std::string* Tokenizer::spelling(int64_t id) const {
  if (const auto found = spellings_.find(id); found != spellings_.end()) return &found->second;
  const bool possible = id >= 0 && id <= std::numeric_limits<uint32_t>::max();
  return possible ? bpe_.token(static_cast<uint32_t>(id)) : nullptr;
}

std::vector<int64_t> Tokenizer::encode(std::string_view text, bool begins) const {
  if (text.size() >= std::numeric_limits<int32_t>::max()) {
    throw Error(AR_INPUT_INVALID, "the text is too long to be tokenised",
                {"text", std::to_string(text.size()) + " bytes", "less than 2^31", ""});
  }
  if (!utf8::valid(text)) {
    throw Error(AR_INPUT_INVALID, "the text is not valid Unicode",
                {"text", quoted(std::string(text.substr(0, 200))), "UTF-8", ""});
  }
  std::vector<int64_t> ids;
  for (const AddedTokens::Piece& piece : before_.cut(text)) {
    if (piece.id) {
      ids.push_back(*piece.id);
    } else {
      encode_plain(piece.text, begins && piece.text.data() == text.data(), ids);
    }
  }
  return ids;
}

std::string Tokenizer::decode(const std::vector<int64_t>& ids) const {
  std::vector<std::string> tokens;
  for (const int64_t id : ids) {
    const std::string* token = spelling(id);
    if (token && specials_.count(*token) == 0) tokens.push_back(*token);
  }
  if (decoder_) return decode_tokens(*decoder_, std::move(tokens));
  std::string text;
  for (std::size_t i = 0; i < tokens.size(); ++i) text.append(i > 0 ? " " : "").append(tokens[i]);
  return text;
}

}  // namespace ar
