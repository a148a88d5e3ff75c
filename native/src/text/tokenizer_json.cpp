#include "text/tokenizer_json.hpp"

#include <limits>
#include <string>
#include <unordered_map>
#include <utility>

#include "contract/error.hpp"
#include "text/json_part.hpp"
#include "contract/utf8.hpp"

namespace ar {
namespace {

const std::string kFile = "tokenizer/tokenizer.json";

constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max();
// Bounds that no real tokenizer comes near, so that a hostile one makes neither a text nor the work on it explode.
constexpr std::size_t kMaxMarkBytes = 8;  // what is put in place of a space, or before a text
constexpr int kMaxReplaces = 2;
constexpr std::size_t kMaxAddedBytes = 1000;

uint32_t read_id(const JsonView& view) {
  const int64_t id = read_count(view);
  if (id > kMaxId) view.refuse("Expected a token id below 2^31");
  return static_cast<uint32_t>(id);
}

std::string read_character(const JsonView& view) {
  std::string text = read_text(view);
  if (utf8::count(text) != 1) view.refuse("Expected one character, got " + quoted(text));
  return text;
}

// {"String": "..."}: a pattern without a regular expression.
std::string read_plain_pattern(const JsonView& view) {
  JsonPart part(view);
  const auto plain = part.may("String");
  if (!plain) refuse_unknown(view, "{\"String\": ...}");
  const std::string text = read_text(*plain);
  if (text.empty()) refuse_unknown(*plain, "a text that is not empty");
  part.close();
  return text;
}

std::string read_mark(const JsonView& view) {
  std::string mark = read_text(view);
  if (mark.size() > kMaxMarkBytes) refuse_unknown(view, "at most " + std::to_string(kMaxMarkBytes) + " bytes");
  return mark;
}

// `count` is how many of its kind were read before.
Replace read_replace(JsonPart& part, int& count) {
  if (++count > kMaxReplaces) refuse_unknown(part.view(), std::to_string(kMaxReplaces) + " of type Replace at most");
  return {read_plain_pattern(part.need("pattern")), read_mark(part.need("content"))};
}

AddedToken read_added_token(const JsonView& view) {
  JsonPart part(view);
  AddedToken token;
  token.id = read_id(part.need("id"));
  const JsonView content = part.need("content");
  token.content = read_text(content);
  if (token.content.size() > kMaxAddedBytes) {
    refuse_unknown(content, "at most " + std::to_string(kMaxAddedBytes) + " bytes");
  }
  token.strip_left = part.flag("lstrip");
  token.strip_right = part.flag("rstrip");
  token.normalized = part.flag("normalized");
  token.special = part.flag("special");
  const JsonView single_word = part.need("single_word");
  if (read_bool(single_word) && !token.special) refuse_unknown(single_word, "false for a token that is not special");
  part.close();
  return token;
}

std::vector<NormalizerStep> read_normalizer(const JsonView& view) {
  std::vector<NormalizerStep> steps;
  int replaces = 0;
  each_part(view, "normalizers", [&](JsonPart& part, const std::string& type) {
    if (type == "NFC") {
      steps.push_back(Nfc{});
    } else if (type == "Prepend") {
      steps.push_back(Prepend{read_mark(part.need("prepend"))});
    } else if (type == "Replace") {
      steps.push_back(read_replace(part, replaces));
    } else {
      refuse_unknown(part.need("type"), "NFC, Prepend or Replace");
    }
    part.close();
  });
  return steps;
}

Split read_split(JsonPart& part) {
  const JsonView pattern = part.need("pattern");
  JsonPart kind(pattern);
  const auto regex = kind.may("Regex");
  if (!regex) refuse_unknown(pattern, "{\"Regex\": ...}");
  kind.close();
  const auto known = find_split_pattern(read_text(*regex));
  if (!known) refuse_unknown(*regex, "the pattern of Qwen 2, Llama 3 or GPT-2, letter by letter");
  const JsonView behavior = part.need("behavior");
  const std::string name = read_text(behavior);
  const bool invert = part.flag("invert");
  // The patterns match everything, so keeping matches alone is the same as cutting there.
  if (name != "Isolated" && !(name == "Removed" && invert)) {
    refuse_unknown(behavior, "Isolated, or Removed with invert");
  }
  return {*known};
}

Metaspace::Prepend read_prepend_scheme(JsonPart& part) {
  const auto scheme = part.may("prepend_scheme");
  const std::string name = scheme ? read_one_of(*scheme, {"first", "always", "never"}) : "always";
  const auto older = part.may("add_prefix_space");  // the field's name until 2024
  if (older && !read_bool(*older) && name != "never") older->refuse("`prepend_scheme` says otherwise");
  if (name == "first") return Metaspace::Prepend::kFirst;
  return name == "always" ? Metaspace::Prepend::kAlways : Metaspace::Prepend::kNever;
}

Metaspace read_metaspace(JsonPart& part) {
  Metaspace space{read_character(part.need("replacement")), read_prepend_scheme(part), part.flag("split", true)};
  part.ignore({"str_rep"});
  return space;
}

ByteLevel read_byte_level(JsonPart& part) {
  part.flag("trim_offsets");
  return {part.flag("add_prefix_space"), part.flag("use_regex", true)};
}

std::vector<PreTokenizerStep> read_pre_tokenizer(const JsonView& view) {
  std::vector<PreTokenizerStep> steps;
  each_part(view, "pretokenizers", [&steps](JsonPart& part, const std::string& type) {
    if (!steps.empty() && !std::holds_alternative<Split>(steps.back())) {
      refuse_unknown(part.view(), "nothing behind ByteLevel or Metaspace");
    }
    if (type == "Split") {
      steps.push_back(read_split(part));
    } else if (type == "ByteLevel") {
      steps.push_back(read_byte_level(part));
    } else if (type == "Metaspace" && steps.empty()) {
      steps.push_back(read_metaspace(part));
    } else {
      refuse_unknown(part.need("type"), "Split, ByteLevel, or Metaspace alone");
    }
    part.close();
  });
  return steps;
}

std::vector<DecoderStep> read_decoder(const JsonView& view) {
  std::vector<DecoderStep> steps;
  int replaces = 0;
  each_part(view, "decoders", [&](JsonPart& part, const std::string& type) {
    if (type == "ByteLevel") {
      read_byte_level(part);  // its settings do not touch decoding
      steps.push_back(ByteLevelDecoder{});
    } else if (type == "Metaspace") {
      const Metaspace space = read_metaspace(part);
      steps.push_back(MetaspaceDecoder{space.mark, space.prepend != Metaspace::Prepend::kNever});
    } else if (type == "Replace") {
      steps.push_back(read_replace(part, replaces));
    } else if (type == "ByteFallback") {
      steps.push_back(ByteFallbackDecoder{});
    } else if (type == "Fuse") {
      steps.push_back(FuseDecoder{});
    } else if (type == "Strip") {
      const JsonView stop = part.need("stop");
      if (read_count(stop) != 0) refuse_unknown(stop, "0");  // `tokenizers` panics on shorter tokens
      const int64_t start = read_count(part.need("start"));
      steps.push_back(StripDecoder{read_character(part.need("content")), static_cast<std::size_t>(start)});
    } else {
      refuse_unknown(part.need("type"), "ByteLevel, Metaspace, Replace, ByteFallback, Fuse or Strip");
    }
    part.close();
  });
  return steps;
}

// Returns the ids of the special tokens that a template has before the text.
std::vector<int64_t> read_template(JsonPart& part) {
  const JsonView table = part.need("special_tokens");
  std::unordered_map<std::string, std::vector<int64_t>> ids;
  for (const auto& [name, json] : table.members()) {
    const JsonView view = table.keyed(name, json);
    JsonPart token(view);
    ids[name] = list(read_int64)(token.need("ids"));
    token.ignore({"id", "tokens"});
    token.close();
  }
  const JsonView single = part.need("single");
  std::vector<int64_t> leading;
  bool text = false;
  for (std::size_t i = 0; i < single.items().size(); ++i) {
    const JsonView view = single.item(i, single.items()[i]);
    JsonPart piece(view);
    const auto special = piece.may("SpecialToken");
    const JsonView either = special ? *special : piece.need("Sequence");
    JsonPart body(either);
    const JsonView name = body.need("id");
    body.ignore({"type_id"});
    body.close();
    piece.close();
    if (!special) {
      if (read_text(name) != "A") name.refuse("Expected the one text that there is, `A`");
      text = true;
    } else {
      const auto found = ids.find(read_text(name));
      if (found == ids.end()) name.refuse("`special_tokens` has no such token");
      if (!text) leading.insert(leading.end(), found->second.begin(), found->second.end());
    }
  }
  if (!text) single.refuse("Expected a place for the text");
  return leading;
}

std::vector<int64_t> read_leading(const JsonView& view) {
  std::vector<int64_t> leading;
  each_part(view, "processors", [&leading](JsonPart& part, const std::string& type) {
    if (type == "TemplateProcessing") {
      const std::vector<int64_t> outer = read_template(part);
      leading.insert(leading.begin(), outer.begin(), outer.end());
      part.ignore({"pair"});
    } else if (type == "ByteLevel") {
      read_byte_level(part);  // corrects offsets, which nobody asks for
    } else {
      refuse_unknown(part.need("type"), "TemplateProcessing or ByteLevel");
    }
    part.close();
  });
  return leading;
}

// "a b", or ["a", "b"].
std::pair<std::string, std::string> read_merge(const JsonView& view) {
  if (const auto* both = view.get<std::string>()) {
    const std::size_t space = both->find(' ');
    if (space == std::string::npos || both->find(' ', space + 1) != std::string::npos) {
      view.refuse("Expected two tokens with a space between, got " + quoted(*both));
    }
    return {both->substr(0, space), both->substr(space + 1)};
  }
  std::vector<std::string> both = list(read_text)(view);
  if (both.size() != 2) view.refuse("Expected two tokens, got " + std::to_string(both.size()));
  return {std::move(both[0]), std::move(both[1])};
}

std::vector<std::pair<std::string, std::string>> read_merges(const JsonView& view) {
  std::vector<std::pair<std::string, std::string>> merges;
  const Json::Items& items = view.items();
  for (std::size_t i = 0; i < items.size(); ++i) {
    const JsonView item = view.item(i, items[i]);
    if (items[i].value.index() != items[0].value.index()) item.refuse("Expected a merge written like the first one");
    const auto* line = item.get<std::string>();
    if (line == nullptr || line->rfind("#version", 0) != 0) merges.push_back(read_merge(item));
  }
  return merges;
}

std::vector<std::pair<std::string, uint32_t>> read_vocabulary(const JsonView& view) {
  std::vector<std::pair<std::string, uint32_t>> vocabulary;
  vocabulary.reserve(view.members().size());
  for (const auto& [token, json] : view.members()) {
    const auto* number = std::get_if<JsonInteger>(&json.value);  // 150,000 times: no path is made where all is well
    const bool good = number && number->fits && !number->negative && number->magnitude <= uint64_t{kMaxId};
    vocabulary.emplace_back(token, good ? static_cast<uint32_t>(number->magnitude) : read_id(view.keyed(token, json)));
  }
  return vocabulary;
}

void refuse_affix(JsonPart& part, const std::string& name) {
  const auto affix = part.may(name);
  if (affix && !read_text(*affix).empty()) refuse_unknown(*affix, "null");
}

BpeModel read_model(const JsonView& view) {
  JsonPart part(view);
  const JsonView type = part.need("type");
  if (read_text(type) != "BPE") refuse_unknown(type, "BPE");
  if (const auto dropout = part.may("dropout"); dropout && read_real(*dropout) != 0) refuse_unknown(*dropout, "null");
  refuse_affix(part, "continuing_subword_prefix");
  refuse_affix(part, "end_of_word_suffix");
  BpeModel model;
  if (const auto unknown = part.may("unk_token")) model.unknown = read_text(*unknown);
  model.fuse_unknown = part.flag("fuse_unk", false);
  model.byte_fallback = part.flag("byte_fallback", false);
  model.ignore_merges = part.flag("ignore_merges", false);
  model.vocabulary = read_vocabulary(part.need("vocab"));
  model.merges = read_merges(part.need("merges"));
  part.close();
  return model;
}

// The beginning of a text is known by offsets there, which normalisers move.
void refuse_moved_beginning(const TokenizerParts& parts, const JsonView& normalizer) {
  for (const PreTokenizerStep& step : parts.pre_tokenizer) {
    const auto* space = std::get_if<Metaspace>(&step);
    if (space && space->prepend == Metaspace::Prepend::kFirst) {
      refuse_unknown(normalizer, "null where Metaspace has the prepend_scheme `first`");
    }
  }
}

}  // namespace

TokenizerParts read_tokenizer(std::string_view json) {
  const Json whole = parse_json(json, kFile);
  const JsonView view(whole, kFile);
  JsonPart part(view);
  TokenizerParts parts;
  const auto version = part.may("version");
  if (version && read_text(*version) != "1.0") refuse_unknown(*version, "1.0");
  part.ignore({"truncation", "padding"});  // never asked for here
  parts.added = list(read_added_token)(part.need("added_tokens"));
  if (const auto found = part.may("pre_tokenizer")) parts.pre_tokenizer = read_pre_tokenizer(*found);
  if (const auto found = part.may("normalizer")) {
    parts.normalizer = read_normalizer(*found);
    refuse_moved_beginning(parts, *found);
  }
  if (const auto found = part.may("post_processor")) parts.leading = read_leading(*found);
  if (const auto found = part.may("decoder")) parts.decoder = read_decoder(*found);
  parts.model = read_model(part.need("model"));
  part.close();
  return parts;
}

}  // namespace ar
