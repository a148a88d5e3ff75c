// Answers questions about the text part, for tests/native/test_text_parity.py: an object a line, a JSON value back.
//
// {"load": tokenizer.json's text}                      -> {"leading": [...], "specials": {...}}
// {"encode": text, "begins": flag}                     -> ids
// {"decode": ids}                                      -> text
// {"detokenise": ids}                                  -> the pieces, the last one from finish()
// {"manifest": text}                                   -> null; makes the prompter of its chat template
// {"messages": [{"role", "parts": [null: an image, or a text]}]} -> ids
// {"rendered": text}                                   -> ids
// {"golden": text}                                     -> null where the prompts hold
// {"stops": texts, "pieces": texts}                    -> [what stays of each piece and of the end, reached]
// {"blank": text}                                      -> those characters of it that Python strips
// What fails gives {"error": name, "message": text}.
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "contract/error.hpp"
#include "contract/json_reader.hpp"
#include "text/pieces.hpp"
#include "text/prompter.hpp"
#include "text/tokenizer.hpp"
#include "text/unicode.hpp"
#include "contract/utf8.hpp"

namespace {

using Ids = std::vector<int64_t>;
using Texts = std::vector<std::string>;

std::string shown(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}
std::string shown(int64_t id) { return std::to_string(id); }
template <class Value>
std::string shown(const std::vector<Value>& values) {
  std::string out;
  for (const Value& value : values) out += (out.empty() ? "" : ",") + shown(value);
  return "[" + out + "]";
}

constexpr auto read_message = ar::record<ar::Message>([](ar::JsonFields& fields, ar::Message& message) {
  fields.need("role", message.role, ar::read_text);
  fields.need("parts", message.parts, ar::list([](const ar::JsonView& view) {
                const std::optional<std::string> text = ar::nullable(ar::read_text)(view);
                return ar::Part{!text, text.value_or("")};
              }));
});

class Probe {
 public:
  std::string answer(const std::string& line) {
    const ar::Json json = ar::parse_json(line, "stdin");
    const ar::JsonView view(json, "stdin");
    ar::JsonFields fields(view);
    std::string text;
    Ids ids;
    Texts texts;
    bool flag = true;
    if (fields.may("load", text, ar::read_text)) return load(text);
    if (fields.may("encode", text, ar::read_text)) {
      fields.need("begins", flag, ar::read_bool);
      return shown(tokenizer_->encode(text, flag));
    }
    if (fields.may("decode", ids, ar::list(ar::read_int64))) return shown(tokenizer_->decode(ids));
    if (fields.may("detokenise", ids, ar::list(ar::read_int64))) return detokenise(ids);
    if (fields.may("manifest", text, ar::read_text)) {
      prompter_ = std::make_unique<ar::Prompter>(ar::Tokenizer(loaded_), ar::decode_manifest(text, "stdin").chat);
      return "null";
    }
    if (std::vector<ar::Message> messages; fields.may("messages", messages, ar::list(read_message)))
      return shown(prompter_->ids(messages));
    if (fields.may("rendered", text, ar::read_text)) return shown(prompter_->rendered_ids(text));
    if (fields.may("golden", text, ar::read_text)) {
      prompter_->check(text, "golden");
      return "null";
    }
    if (fields.may("stops", texts, ar::list(ar::read_text))) {
      Texts pieces;
      fields.need("pieces", pieces, ar::list(ar::read_text));
      return stops(texts, pieces);
    }
    fields.need("blank", text, ar::read_text);
    return blank(text);
  }

 private:
  std::string load(const std::string& text) {
    tokenizer_ = std::make_unique<ar::Tokenizer>(text);
    loaded_ = text;
    std::string specials;
    for (const auto& [special, id] : tokenizer_->specials()) {
      specials += (specials.empty() ? "" : ",") + shown(special) + ":" + shown(id);
    }
    return "{\"leading\":" + shown(tokenizer_->leading()) + ",\"specials\":{" + specials + "}}";
  }

  std::string detokenise(const Ids& ids) const {
    ar::Detokeniser stream([this](const Ids& some) { return tokenizer_->decode(some); });
    Texts pieces;
    for (const int64_t id : ids) pieces.push_back(stream.add(id));
    pieces.push_back(stream.finish());
    return shown(pieces);
  }

  static std::string stops(const Texts& texts, const Texts& pieces) {
    ar::StopTexts filter(texts);
    Texts kept;
    for (const std::string& piece : pieces) {
      kept.push_back(filter.add(piece));
      if (filter.reached()) break;
    }
    kept.push_back(filter.finish());
    return "[" + shown(kept) + "," + (filter.reached() ? "true" : "false") + "]";
  }

  static std::string blank(const std::string& text) {
    std::string found;
    for (std::size_t at = 0, end = 0; at < text.size(); at = end) {
      ar::utf8::next(text, end);
      const std::string character = text.substr(at, end - at);
      if (ar::unicode::strip(character).empty()) found += character;
    }
    return shown(found);
  }

  std::string loaded_;
  std::unique_ptr<ar::Tokenizer> tokenizer_;
  std::unique_ptr<ar::Prompter> prompter_;
};

}  // namespace

int main() {
  Probe probe;
  for (std::string line; std::getline(std::cin, line);) {
    try {
      std::cout << probe.answer(line) << std::endl;
    } catch (const ar::Error& error) {
      const std::string name = ar::error_name(error.status()), message = error.what();
      std::cout << "{\"error\":" << shown(name) << ",\"message\":" << shown(message) << "}" << std::endl;
    }
  }
}
