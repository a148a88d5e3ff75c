#include "text/steps.hpp"

#include <array>
#include <cstdint>
#include <optional>
#include <utility>

#include "text/unicode.hpp"
#include "contract/utf8.hpp"

namespace ar {
namespace {

struct Normalize {
  std::string text;
  std::string operator()(const Nfc&) const { return unicode::nfc(text); }
  std::string operator()(const Prepend& prepend) const { return text.empty() ? text : prepend.text + text; }
  std::string operator()(const Replace& replace) const { return replace_all(text, replace); }
};

constexpr char32_t kMoved = 0x100;  // bytes that are not printable in Latin-1 are mapped from here on, in their order

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int, kMoved + 68> bytes;  // -1: of no byte

  Alphabet() {
    bytes.fill(-1);
    char32_t moved = kMoved;
    for (char32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
      const char32_t character = printable ? byte : moved++;
      utf8::append(characters[byte], character);
      bytes[character] = static_cast<int>(byte);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet table;
  return table;
}

bool starts_with(std::string_view text, std::string_view beginning) {
  return text.substr(0, beginning.size()) == beginning;
}

// One step after the other on each piece, depth first, so that no list of pieces is ever held.
class Walk {
 public:
  Walk(const std::vector<PreTokenizerStep>& steps, const std::function<void(std::string_view)>& word)
      : steps_(steps), word_(word) {}

  void piece(std::size_t step, std::string_view text, bool begins) const {
    if (text.empty()) return;
    if (step == steps_.size()) return word_(text);
    std::visit([&](const auto& found) { apply(found, step + 1, text, begins); }, steps_[step]);
  }

 private:
  void apply(const Split& split, std::size_t next, std::string_view text, bool begins) const {
    for (std::size_t begin = 0, end; begin < text.size(); begin = end) {
      end = word_end(split.pattern, text, begin);
      piece(next, text.substr(begin, end - begin), begins && begin == 0);
    }
  }

  void apply(const ByteLevel& level, std::size_t next, std::string_view text, bool begins) const {
    const auto emit = [&](std::string_view part, bool first) { piece(next, to_byte_level(part), first); };
    std::string prefixed;
    if (level.add_prefix_space && text.front() != ' ') {
      prefixed = " " + std::string(text);
      text = prefixed;
    }
    if (!level.use_regex) return emit(text, begins);
    for (std::size_t begin = 0, end; begin < text.size(); begin = end) {
      end = word_end(SplitPattern::kGpt2, text, begin);
      emit(text.substr(begin, end - begin), begins && begin == 0);
    }
  }

  void apply(const Metaspace& space, std::size_t next, std::string_view text, bool begins) const {
    std::string marked = replace_all(text, {" ", space.mark});
    const bool wanted = space.prepend == Metaspace::Prepend::kAlways ||
                        (space.prepend == Metaspace::Prepend::kFirst && begins);
    if (wanted && !starts_with(marked, space.mark)) marked.insert(0, space.mark);
    if (!space.split) return piece(next, marked, begins);
    for (std::size_t begin = 0, end; begin < marked.size(); begin = end) {  // a mark begins a piece
      const bool at_mark = starts_with(std::string_view(marked).substr(begin), space.mark);
      end = marked.find(space.mark, begin + (at_mark ? space.mark.size() : 0));
      if (end == std::string::npos) end = marked.size();
      piece(next, std::string_view(marked).substr(begin, end - begin), begins && begin == 0);
    }
  }

  const std::vector<PreTokenizerStep>& steps_;
  const std::function<void(std::string_view)>& word_;
};

using Tokens = std::vector<std::string>;

std::string joined(const Tokens& tokens) {
  std::string text;
  for (const std::string& token : tokens) text += token;
  return text;
}

// Returns the byte that a token like <0x0A> means. A plus sign counts as a digit does in Rust: <0x+A> is a byte.
std::optional<char> fallback_byte(const std::string& token) {
  if (token.size() != 6 || token.compare(0, 3, "<0x") != 0 || token[5] != '>') return std::nullopt;
  const auto digit = [](char character) {
    if (character >= '0' && character <= '9') return character - '0';
    const int letter = character | 0x20;
    return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
  };
  const int high = token[3] == '+' ? 0 : digit(token[3]), low = digit(token[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<char>(static_cast<unsigned char>(16 * high + low));
}

struct Decode {
  Tokens tokens;

  Tokens operator()(const ByteLevelDecoder&) const {
    std::string bytes;
    for (const std::string& token : tokens) append_from_byte_level(token, bytes);
    return {utf8::lossy(bytes)};
  }

  Tokens operator()(const MetaspaceDecoder& space) const {
    Tokens made;
    for (const std::string& token : tokens) {
      made.push_back(replace_all(token, {space.mark, made.empty() && space.drop_first ? "" : " "}));
    }
    return made;
  }

  Tokens operator()(const Replace& replace) const {
    Tokens made;
    for (const std::string& token : tokens) made.push_back(replace_all(token, replace));
    return made;
  }

  Tokens operator()(const ByteFallbackDecoder&) const {
    Tokens made;
    std::string bytes;
    const auto flush = [&] {
      if (utf8::valid(bytes)) {
        if (!bytes.empty()) made.push_back(bytes);
      } else {
        made.insert(made.end(), bytes.size(), utf8::kReplacement);
      }
      bytes.clear();
    };
    for (const std::string& token : tokens) {
      if (const auto byte = fallback_byte(token)) {
        bytes += *byte;
        continue;
      }
      flush();
      made.push_back(token);
    }
    flush();
    return made;
  }

  Tokens operator()(const FuseDecoder&) const { return {joined(tokens)}; }

  Tokens operator()(const StripDecoder& strip) const {
    Tokens made;
    for (const std::string& token : tokens) {
      std::size_t at = 0;
      for (std::size_t cut = 0; cut < strip.start; ++cut, at += strip.content.size()) {
        if (token.compare(at, strip.content.size(), strip.content) != 0) break;
      }
      made.push_back(token.substr(at));
    }
    return made;
  }
};

}  // namespace

std::string replace_all(std::string_view text, const Replace& replace) {
  std::string replaced;
  std::size_t at = 0;
  for (std::size_t found; (found = text.find(replace.from, at)) != std::string_view::npos;) {
    replaced.append(text.substr(at, found - at)).append(replace.to);
    at = found + replace.from.size();
  }
  return replaced.append(text.substr(at));
}

std::string normalize(const std::vector<NormalizerStep>& steps, std::string_view text) {
  std::string normalized(text);
  for (const NormalizerStep& step : steps) normalized = std::visit(Normalize{std::move(normalized)}, step);
  return normalized;
}

std::string to_byte_level(std::string_view text) {
  const Alphabet& table = alphabet();
  std::string mapped;
  mapped.reserve(text.size() * 2);
  for (const char byte : text) mapped += table.characters[static_cast<uint8_t>(byte)];
  return mapped;
}

void append_from_byte_level(std::string_view token, std::string& bytes) {
  const Alphabet& table = alphabet();
  const std::size_t before = bytes.size();
  for (std::size_t at = 0; at < token.size();) {
    const char32_t character = utf8::next(token, at);
    const int byte = character < table.bytes.size() ? table.bytes[character] : -1;
    if (byte < 0) {
      bytes.resize(before);
      bytes += token;
      return;
    }
    bytes += static_cast<char>(static_cast<uint8_t>(byte));
  }
}

void pre_tokenize(const std::vector<PreTokenizerStep>& steps, std::string_view text, bool begins,
                  const std::function<void(std::string_view)>& word) {
  Walk(steps, word).piece(0, text, begins);
}

std::string decode_tokens(const std::vector<DecoderStep>& steps, Tokens tokens) {
  for (const DecoderStep& step : steps) tokens = std::visit(Decode{std::move(tokens)}, step);
  return joined(tokens);
}

}  // namespace ar
