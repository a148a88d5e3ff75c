#include "text/prompter.hpp"

#include <algorithm>
#include <map>
#include <optional>

#include "contract/error.hpp"
#include "contract/json_reader.hpp"
#include "text/unicode.hpp"
#include "contract/utf8.hpp"

namespace ar {
namespace {

struct Golden {  // one line of tokenizer/golden.jsonl
  std::vector<Message> messages;
  std::string text;
  std::vector<int64_t> input_ids;
  bool in_parts = true;  // no content is a text alone, which a template may write in another way
};

constexpr auto read_part = record<Part>([](JsonFields& fields, Part& part) {
  std::string type;
  fields.need("type", type, [](const JsonView& view) { return read_one_of(view, {"text", "image"}); });
  part.is_image = type == "image";
  if (!part.is_image) fields.need("text", part.text, read_text);
});

constexpr auto read_golden = record<Golden>([](JsonFields& fields, Golden& golden) {
  const auto read_content = [&golden](const JsonView& view) {
    if (!view.get<std::string>()) return list(read_part)(view);
    golden.in_parts = false;
    return std::vector<Part>{{false, read_text(view)}};
  };
  const auto read_message = record<Message>([&read_content](JsonFields& inside, Message& message) {
    inside.need("role", message.role, read_text);
    inside.need("content", message.parts, read_content);
  });
  fields.need("messages", golden.messages, list(read_message));
  fields.need("text", golden.text, read_text);
  fields.need("input_ids", golden.input_ids, list(read_int64));
});

std::string shown(const std::vector<int64_t>& ids) {
  std::string text;
  const std::size_t some = std::min<std::size_t>(ids.size(), 40);
  for (std::size_t i = 0; i < some; ++i) text += (i ? ", " : "") + std::to_string(ids[i]);
  return "[" + text + (ids.size() > some ? ", ..." : "") + "]";
}

[[noreturn]] void refuse(const std::string& what, const Facts& facts) { throw Error(AR_INPUT_INVALID, what, facts); }

enum Place { kEdge, kText, kImage };  // beside a string of the template's: an end of the message, a text, an image

// What stands between two places that are not both edges.
const std::string& between(const RoleLiterals& role, Place before, Place behind) {
  using Field = std::string RoleLiterals::*;
  static constexpr Field kFields[3][3] = {
      {nullptr, &RoleLiterals::before_text, &RoleLiterals::before_image},
      {&RoleLiterals::after_text, &RoleLiterals::text_text, &RoleLiterals::text_image},
      {&RoleLiterals::after_image, &RoleLiterals::image_text, &RoleLiterals::image_image}};
  return role.*kFields[before][behind];
}

void check_message(const Message& message, const std::string& where) {
  bool empty = true;
  for (std::size_t i = 0; i < message.parts.size(); ++i) {
    const Part& part = message.parts[i];
    if (!part.is_image && !utf8::valid(part.text)) {
      refuse("the text is not valid Unicode",
             {where + ".content[" + std::to_string(i) + "].text", quoted(part.text), "UTF-8", ""});
    }
    empty = empty && !part.is_image && unicode::strip(part.text).empty();
  }
  if (empty && message.role == "user") refuse("the message is empty", {where + ".content", "", "", "ask something"});
}

}  // namespace

// A prompt in the making: control tokens, and stretches of text between them.
class Prompter::Script {
 public:
  struct Piece {
    std::string text;           // of a stretch
    std::optional<int64_t> id;  // of a control token
  };

  explicit Script(const AddedTokens& controls) : controls_(controls) {}

  // What is the template's: control tokens in it are control tokens, over the borders of its strings too.
  void write(std::string_view text) { written_ += text; }
  // What is a caller's: text, whatever it spells.
  void quote(std::string_view text) {
    if (text.empty()) return;
    close();
    stretch(text);
  }
  void close() {
    if (pieces_.empty()) beginning_ = written_;
    for (const AddedTokens::Piece& piece : controls_.cut(written_)) {
      piece.id ? pieces_.push_back({"", piece.id}) : stretch(piece.text);
    }
    written_.clear();
  }
  const std::vector<Piece>& pieces() const { return pieces_; }
  // Whether the template wrote this before all else.
  bool begins_with(const std::string& token) const {
    return !token.empty() && beginning_.compare(0, token.size(), token) == 0;
  }

 private:
  void stretch(std::string_view text) {
    if (pieces_.empty() || pieces_.back().id) pieces_.emplace_back();
    pieces_.back().text += text;
  }

  const AddedTokens& controls_;
  std::vector<Piece> pieces_;
  std::string written_, beginning_;
};

Prompter::Prompter(Tokenizer tokenizer, ChatTemplate chat) : tokenizer_(std::move(tokenizer)), chat_(std::move(chat)) {
  for (const auto& [text, id] : tokenizer_.specials()) {
    AddedToken token;
    token.id = id;
    controls_.add(text, token);
  }
  if (tokenizer_.specials().count(chat_.image_token) == 0) {
    throw Error(AR_BUNDLE_CORRUPT, "the tokenizer has no image token",
                {"tokenizer/tokenizer.json", "", quoted(chat_.image_token), "build the bundle again"});
  }
  if (tokenizer_.encode("a", true).empty()) {  // by the encoding of "a" Python's runtime finds what comes before it
    throw Error(AR_BUNDLE_CORRUPT, "the tokenizer has no tokens for a text",
                {"tokenizer/tokenizer.json", "none for 'a'", "one or more", ""});
  }
}

std::vector<int64_t> Prompter::ids(const std::vector<Message>& messages) const {
  if (!chat_.literals) {
    refuse("the model's chat template is a program, which this runtime does not run",
           {"messages", "", "", "give the text that the template renders, or token ids"});
  }
  if (messages.empty()) refuse("no messages", {"messages", "", "one or more", ""});
  const ChatLiterals& literals = *chat_.literals;
  Script script(controls_);
  script.write(messages[0].role == "system" ? literals.begin : literals.begin_without_system);
  for (std::size_t i = 0; i < messages.size(); ++i)
    write(messages[i], "messages[" + std::to_string(i) + "]", script);
  script.write(literals.generation);
  script.close();
  return encode(script);
}

std::vector<int64_t> Prompter::rendered_ids(std::string_view text) const {
  if (!utf8::valid(text)) refuse("the text is not valid Unicode", {"text", quoted(std::string(text)), "UTF-8", ""});
  Script script(controls_);
  script.write(text);
  script.close();
  return encode(script);
}

std::vector<int64_t> Prompter::image_ids(const images::Content& content, int64_t image_token_id) const {
  std::vector<int64_t> ids;
  for (const auto& part : content) {
    if (const auto* count = std::get_if<int64_t>(&part)) {
      ids.insert(ids.end(), static_cast<std::size_t>(*count), image_token_id);
      continue;
    }
    for (const AddedTokens::Piece& piece : controls_.cut(std::get<std::string>(part))) {
      const std::vector<int64_t> found = piece.id ? std::vector<int64_t>{*piece.id} : tokenizer_.encode(piece.text, false);
      ids.insert(ids.end(), found.begin(), found.end());
    }
  }
  return ids;
}

void Prompter::write(const Message& message, const std::string& where, Script& script) const {
  const auto role = chat_.literals->roles.find(message.role);
  if (role == chat_.literals->roles.end())
    refuse("a role that the chat template does not know", {where + ".role", quoted(message.role), "", ""});
  check_message(message, where);
  if (message.parts.empty()) {
    if (!role->second.empty)
      refuse("the chat template refuses a message without a part", {where + ".content", "", "text or images", ""});
    script.write(*role->second.empty);
    return;
  }
  std::vector<const Part*> parts;
  for (const Part& part : message.parts) parts.push_back(&part);
  if (chat_.literals->images_first)
    std::stable_partition(parts.begin(), parts.end(), [](const Part* part) { return part->is_image; });
  Place last = kEdge;
  for (const Part* part : parts) {
    const Place place = part->is_image ? kImage : kText;
    script.write(between(role->second, last, place));
    if (part->is_image) {
      script.write(chat_.image_token);
    } else {
      script.quote(chat_.literals->trims ? unicode::strip(part->text) : part->text);
    }
    last = place;
  }
  script.write(between(role->second, last, kEdge));
}

// The rule's last step: ids of control tokens and of stretches, which are encoded whole, because merges reach across
// the borders of template and texts. Refuses control tokens that the tokenizer's model made of a stretch.
std::vector<int64_t> Prompter::encode(const Script& script) const {
  std::vector<int64_t> ids;
  std::map<int64_t, int> surplus;
  for (const Script::Piece& piece : script.pieces()) {
    if (piece.id) {
      ids.push_back(*piece.id);
      --surplus[*piece.id];
      continue;
    }
    const std::vector<int64_t> found = tokenizer_.encode(piece.text, &piece == &script.pieces().front());
    ids.insert(ids.end(), found.begin(), found.end());
  }
  for (const int64_t id : ids) {
    if (++surplus[id] <= 0 || tokenizer_.barred().count(id) == 0) continue;
    refuse("this tokenizer cannot write a control token's text as plain text",
           {"messages", quoted(tokenizer_.barred().at(id)), "", "take it out of the text"});
  }
  if (!script.begins_with(chat_.begin_token))
    ids.insert(ids.begin(), tokenizer_.leading().begin(), tokenizer_.leading().end());
  return ids;
}

void Prompter::check(std::string_view golden, const std::string& where) const {
  int line = 0, prompts = 0;
  for (std::size_t begin = 0, end; begin < golden.size(); begin = end + 1) {
    end = std::min(golden.find('\n', begin), golden.size());
    const std::string place = where + ":" + std::to_string(++line);
    const std::string_view text = golden.substr(begin, end - begin);
    if (text.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const Json json = parse_json(text, place);
    const Golden prompt = read_golden(JsonView(json, place));
    ++prompts;
    std::string got;
    try {
      const std::vector<int64_t> found =
          chat_.literals && prompt.in_parts ? ids(prompt.messages) : rendered_ids(prompt.text);
      if (found == prompt.input_ids) continue;
      got = shown(found);
    } catch (const Error& error) {
      got = error.what();
    }
    throw Error(AR_BUNDLE_CORRUPT, "template and tokenizer give other ids than when the bundle was built",
                {place + ": " + quoted(prompt.text), got, shown(prompt.input_ids), "build the bundle again"});
  }
  if (prompts == 0)
    throw Error(AR_BUNDLE_CORRUPT, "there are no golden prompts", {where, "", "", "build the bundle again"});
}

}  // namespace ar
