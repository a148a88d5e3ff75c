#include "text/prompter.hpp"

#include <algorithm>
#include <map>

#include "contract/error.hpp"
#include "contract/json_reader.hpp"
#include "text/unicode.hpp"
#include "text/utf8.hpp"

namespace ar {
namespace {

struct Golden {  // one line of tokenizer/golden.jsonl
  std::string question;
  std::vector<int64_t> prefix_ids, suffix_ids;
};

Golden read_golden(std::string_view line, const std::string& where) {
  const Json json = parse_json(line, where);
  const JsonView view(json, where);
  JsonFields fields(view);
  Golden golden;
  std::string text;
  fields.need("question", golden.question, read_text);
  fields.need("text", text, read_text);
  fields.need("prefix_ids", golden.prefix_ids, list(read_int64));
  fields.need("suffix_ids", golden.suffix_ids, list(read_int64));
  fields.close();
  return golden;
}

std::string shown(const std::vector<int64_t>& prefix, const std::vector<int64_t>& suffix) {
  const auto row = [](const std::vector<int64_t>& ids) {
    std::string text;
    const std::size_t some = std::min<std::size_t>(ids.size(), 40);
    for (std::size_t i = 0; i < some; ++i) text += (i ? ", " : "") + std::to_string(ids[i]);
    return "[" + text + (ids.size() > some ? ", ..." : "") + "]";
  };
  return row(prefix) + " and " + row(suffix);
}

}  // namespace

Prompter::Prompter(Tokenizer tokenizer, const PromptTemplate& prompt)
    : tokenizer_(std::move(tokenizer)),
      before_(cut(prompt.after_image, tokenizer_)),
      after_(cut(prompt.after_question, tokenizer_)) {
  if (prompt.prefix_special) {
    if (tokenizer_.encode("a", true).empty()) {  // by the encoding of "a" Python's runtime finds what comes before it
      throw Error(AR_BUNDLE_CORRUPT, "the tokenizer has no tokens for a text",
                  {"tokenizer/tokenizer.json", "none for 'a'", "one or more", ""});
    }
    prefix_ = tokenizer_.leading();
  }
  const std::vector<int64_t> ids = encode(cut(prompt.before_image, tokenizer_), true);
  prefix_.insert(prefix_.end(), ids.begin(), ids.end());
}

PromptIds Prompter::ids(std::string_view question) const {
  const std::string text(question);
  if (!utf8::valid(question)) {
    throw Error(AR_INPUT_INVALID, "the question is not valid Unicode", {"question", quoted(text), "UTF-8", ""});
  }
  if (unicode::is_blank(question)) {
    throw Error(AR_INPUT_INVALID, "the question is empty", {"question", quoted(text), "", "ask something"});
  }
  std::vector<Piece> pieces = before_;
  pieces.push_back({text, -1});
  pieces.insert(pieces.end(), after_.begin(), after_.end());
  PromptIds ids{prefix_, encode(pieces, false)};
  refuse_formed(pieces, ids.suffix_ids);
  return ids;
}

// Refuses control tokens beyond the template's own: the model made them of the question.
void Prompter::refuse_formed(const std::vector<Piece>& pieces, const std::vector<int64_t>& ids) const {
  std::map<int64_t, int> written;
  for (const Piece& piece : pieces) ++written[piece.id];
  for (const int64_t id : ids) {
    const auto barred = tokenizer_.barred().find(id);
    if (barred == tokenizer_.barred().end() || --written[id] >= 0) continue;
    throw Error(AR_INPUT_INVALID, "this tokenizer cannot write a control token's text as plain text",
                {"question", quoted(barred->second), "", "take it out of the question"});
  }
}

void Prompter::check(std::string_view golden, const std::string& where) const {
  int line = 0;
  for (std::size_t begin = 0, end; begin < golden.size(); begin = end + 1) {
    end = std::min(golden.find('\n', begin), golden.size());
    const std::string place = where + ":" + std::to_string(++line);
    const std::string_view text = golden.substr(begin, end - begin);
    if (text.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const Golden pair = read_golden(text, place);
    const PromptIds got = ids(pair.question);
    if (got.prefix_ids == pair.prefix_ids && got.suffix_ids == pair.suffix_ids) continue;
    throw Error(AR_BUNDLE_CORRUPT, "the tokenizer gives other ids than when the bundle was built",
                {place + ": " + quoted(pair.question), shown(got.prefix_ids, got.suffix_ids),
                 shown(pair.prefix_ids, pair.suffix_ids), "build the bundle again, or load it with ids_only"});
  }
}

// Cuts a segment of the template at special tokens, the longest where several begin at one place.
std::vector<Prompter::Piece> Prompter::cut(std::string_view text, const Tokenizer& tokenizer) {
  std::vector<Piece> pieces;
  std::size_t written = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::pair<const std::string, int64_t>* longest = nullptr;
    for (const auto& special : tokenizer.specials()) {
      const bool found = text.compare(at, special.first.size(), special.first) == 0;
      if (found && (!longest || special.first.size() > longest->first.size())) longest = &special;
    }
    if (!longest) {
      ++at;
      continue;
    }
    if (written < at) pieces.push_back({std::string(text.substr(written, at - written)), -1});
    pieces.push_back({longest->first, longest->second});
    written = at += longest->first.size();
  }
  if (written < text.size()) pieces.push_back({std::string(text.substr(written)), -1});
  return pieces;
}

// Plain neighbours are encoded as one text, because merges reach across the seams.
std::vector<int64_t> Prompter::encode(const std::vector<Piece>& pieces, bool begins) const {
  std::vector<int64_t> ids;
  for (std::size_t i = 0; i < pieces.size();) {
    if (pieces[i].id >= 0) {
      ids.push_back(pieces[i++].id);
      continue;
    }
    const bool first = begins && i == 0;
    std::string stretch;
    while (i < pieces.size() && pieces[i].id < 0) stretch += pieces[i++].text;
    const std::vector<int64_t> found = tokenizer_.encode(stretch, first);
    ids.insert(ids.end(), found.begin(), found.end());
  }
  return ids;
}

}  // namespace ar
