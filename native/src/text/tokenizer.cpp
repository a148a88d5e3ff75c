#include "text/tokenizer.hpp"

#include <limits>
#include <optional>
#include <utility>

#include "contract/error.hpp"
#include "text/added_tokens.hpp"
#include "text/bpe.hpp"
#include "text/tokenizer_json.hpp"
#include "text/unicode.hpp"
#include "text/utf8.hpp"

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

struct Tokenizer::Impl {
  explicit Impl(TokenizerParts parts)
      : normalizer(std::move(parts.normalizer)),
        pre_tokenizer(std::move(parts.pre_tokenizer)),
        decoder(std::move(parts.decoder)),
        leading(std::move(parts.leading)),
        unknown(parts.model.unknown),
        bpe(std::move(parts.model)) {
    add(parts.added);
  }

  void add(const std::vector<AddedToken>& added);
  void encode_plain(std::string_view text, bool begins, std::vector<int64_t>& ids) const;
  const std::string* token(int64_t id) const;

  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre_tokenizer;
  std::optional<std::vector<DecoderStep>> decoder;
  std::vector<int64_t> leading;
  std::optional<std::string> unknown;
  Bpe bpe;
  AddedTokens before, after;                           // normalising
  std::unordered_map<int64_t, std::string> spellings;  // of added tokens, as they are decoded
  std::map<std::string, int64_t> specials;
  std::map<int64_t, std::string> barred;
};

// Added tokens that the vocabulary lacks get the ids behind it, in their order; a file that says otherwise would be
// read differently by `tokenizers`.
void Tokenizer::Impl::add(const std::vector<AddedToken>& added) {
  auto next = static_cast<int64_t>(bpe.size());
  for (std::size_t i = 0; i < added.size(); ++i) {
    const AddedToken& token = added[i];
    if (token.content.empty()) continue;
    const auto refuse = [&](const char* what, const std::string& got, const std::string& wanted) {
      throw Error(AR_BUNDLE_CORRUPT, what,
                  {"tokenizer/tokenizer.json at `$.added_tokens[" + std::to_string(i) + "]`", got, wanted,
                   "build the bundle again"});
    };
    const auto known = bpe.id(token.content);
    const int64_t id = known ? int64_t{*known} : next++;
    if (id != token.id) refuse("an added token has another id", std::to_string(token.id), std::to_string(id));
    const std::string spelling = token.normalized ? normalize(normalizer, token.content) : token.content;
    AddedTokens& place = token.normalized ? after : before;
    const bool fresh = spellings.emplace(id, spelling).second && !spelling.empty() && place.add(spelling, token);
    if (!fresh) refuse("two added tokens are spelled alike", quoted(token.content), "each one once");
    if (!token.special) continue;
    specials.emplace(token.content, id);
    if (token.content != unknown && has_word(token.content)) barred.emplace(id, token.content);
  }
}

void Tokenizer::Impl::encode_plain(std::string_view text, bool begins, std::vector<int64_t>& ids) const {
  const std::string normalized = normalize(normalizer, text);
  for (const AddedTokens::Piece& piece : after.cut(normalized)) {
    if (piece.id) {
      ids.push_back(*piece.id);
      continue;
    }
    const bool at_start = begins && piece.text.data() == normalized.data();
    pre_tokenize(pre_tokenizer, piece.text, at_start, [&](std::string_view word) { bpe.encode(word, ids); });
  }
}

const std::string* Tokenizer::Impl::token(int64_t id) const {
  if (const auto found = spellings.find(id); found != spellings.end()) return &found->second;
  const bool possible = id >= 0 && id <= std::numeric_limits<uint32_t>::max();
  return possible ? bpe.token(static_cast<uint32_t>(id)) : nullptr;
}

Tokenizer::Tokenizer(std::string_view tokenizer_json) : impl_(std::make_unique<Impl>(read_tokenizer(tokenizer_json))) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

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
  for (const AddedTokens::Piece& piece : impl_->before.cut(text)) {
    if (piece.id) {
      ids.push_back(*piece.id);
    } else {
      impl_->encode_plain(piece.text, begins && piece.text.data() == text.data(), ids);
    }
  }
  return ids;
}

std::string Tokenizer::decode(const std::vector<int64_t>& ids) const {
  std::vector<std::string> tokens;
  for (const int64_t id : ids) {
    const std::string* token = impl_->token(id);
    if (token && impl_->specials.count(*token) == 0) tokens.push_back(*token);
  }
  if (impl_->decoder) return decode_tokens(*impl_->decoder, std::move(tokens));
  std::string text;
  for (std::size_t i = 0; i < tokens.size(); ++i) text.append(i > 0 ? " " : "").append(tokens[i]);
  return text;
}

const std::vector<int64_t>& Tokenizer::leading() const { return impl_->leading; }
const std::map<std::string, int64_t>& Tokenizer::specials() const { return impl_->specials; }
const std::map<int64_t, std::string>& Tokenizer::barred() const { return impl_->barred; }

}  // namespace ar
