// Fuzz target: the first byte chooses. '0': the rest is a tokenizer.json, refused with an error of ours or used a bit.
// Else: the rest is a text for a good tokenizer of one family, and token ids for it; what must hold is demanded.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "../tests/text/small_tokenizers.hpp"
#include "contract/error.hpp"
#include "text/pieces.hpp"
#include "text/prompter.hpp"
#include "text/tokenizer.hpp"
#include "text/unicode.hpp"
#include "contract/utf8.hpp"

namespace {

using Ids = std::vector<int64_t>;

void demand(bool holds) {
  if (!holds) std::abort();
}

// A template of strings that try the seams.
ar::ChatTemplate chat() {
  const ar::RoleLiterals role{"", "a <s>a ", "<", " a", "<s", "s>", "a<s> ", "", "a"};
  return {"<s>", "<s>", ar::ChatLiterals{"", "", "a", false, true, {{"user", role}}}};
}

struct Family {
  ar::Tokenizer tokenizer;
  ar::Prompter prompter;
  bool bytes;  // text comes back as it went in, but for NFC

  Family(const std::string& json, bool byte_level)
      : tokenizer(json), prompter(ar::Tokenizer(json), chat()), bytes(byte_level) {}
};

const Family& family(uint8_t choice) {
  static const std::array<Family, 3> families = {Family(ar::small::byte_level(), true),
                                                 Family(ar::small::sentence_piece(ar::small::kLegacy), false),
                                                 Family(ar::small::sentence_piece(ar::small::kMetaspaceFirst), false)};
  return families[choice % families.size()];
}

void use_anything(std::string_view json) {
  try {
    ar::Tokenizer tokenizer(json);
    const std::string text = "a<s> b\u0301  12é\n";
    for (const bool begins : {true, false}) demand(ar::utf8::valid(tokenizer.decode(tokenizer.encode(text, begins))));
    demand(ar::utf8::valid(tokenizer.decode(tokenizer.leading())));
    const ar::Prompter prompter(std::move(tokenizer), chat());
    try {
      prompter.ids({{"user", {{false, "what?"}, {true, ""}}}});
    } catch (const ar::Error& error) {
      demand(error.status() == AR_INPUT_INVALID);  // the model makes a control token of text
    }
  } catch (const ar::Error& error) {
    demand(error.status() == AR_BUNDLE_CORRUPT || error.status() == AR_ENGINE_UNAVAILABLE);
  }
}

void encode(const Family& family, const std::string& text) {
  for (const bool begins : {true, false}) {
    const Ids ids = family.tokenizer.encode(text, begins);
    demand(text.empty() == ids.empty());
    for (const auto& [special, id] : family.tokenizer.specials()) {
      for (const int64_t found : ids) demand(found != id);
    }
    const std::string back = family.tokenizer.decode(ids);
    demand(ar::utf8::valid(back));
    // An added token between a letter and its mark keeps them apart; decoded they meet.
    if (family.bytes) demand(ar::unicode::nfc(back) == ar::unicode::nfc(text));
  }
}

void ask(const Family& family, const std::string& text) {
  const bool valid = ar::utf8::valid(text);
  const bool blank = valid && ar::unicode::strip(text).empty();
  for (const bool image : {false, true}) {
    std::vector<ar::Part> parts = {{false, text}, {false, text}};
    if (image) parts.insert(parts.begin() + 1, {true, ""});
    try {
      const Ids ids = family.prompter.ids({{"user", parts}});
      const auto begins = std::count(ids.begin(), ids.end(), family.tokenizer.specials().at("<s>"));
      // One of the template's, or two around an image; one of the tokenizer's own; of two strings, where no text is
      // between them.
      demand(begins >= (image ? 2 : 1));
      demand(valid && (image || !blank));
    } catch (const ar::Error& error) {
      demand(error.status() == AR_INPUT_INVALID && (!valid || blank));
    }
  }
  if (valid) demand(family.prompter.rendered_ids(text + "<s>").back() == family.tokenizer.specials().at("<s>"));
}

// Pieces put together are the whole; stop texts cut it before their first end.
void stream(const Family& family, std::string_view data) {
  Ids ids;
  for (const char byte : data.substr(0, 200)) ids.push_back(static_cast<uint8_t>(byte) + (data.size() % 8));
  ar::Detokeniser detokeniser([&family](const Ids& some) { return family.tokenizer.decode(some); });
  ar::StopTexts stops({"ab", "b\u00e9", "\uFFFD\uFFFDa"});
  std::string whole, kept;
  for (std::size_t i = 0; i <= ids.size(); ++i) {
    const std::string piece = i < ids.size() ? detokeniser.add(ids[i]) : detokeniser.finish();
    demand(ar::utf8::valid(piece));
    whole += piece;
    if (!stops.reached()) kept += stops.add(piece);
  }
  kept += stops.finish();
  demand(family.bytes ? whole == family.tokenizer.decode(ids) : ar::utf8::valid(whole));
  demand(stops.reached() ? kept.size() < whole.size() : kept == whole);
  demand(whole.compare(0, kept.size(), kept) == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] == '0') {
    use_anything(rest);
    return 0;
  }
  const Family& chosen = family(data[0]);
  const std::string text(rest);
  if (ar::utf8::valid(text)) encode(chosen, text);
  ask(chosen, text);
  stream(chosen, rest);  // its first ids: while bytes make no character, each one is decoded with all before it
  return 0;
}
