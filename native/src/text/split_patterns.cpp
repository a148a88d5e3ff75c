#include "text/split_patterns.hpp"

#include <utility>

#include "text/unicode.hpp"
#include "contract/utf8.hpp"

namespace ar {
namespace {

constexpr std::string_view kQwen2Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt2Regex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

using Kind = bool (*)(char32_t);

bool is_other(char32_t character) {  // [^\s\p{L}\p{N}]
  return !unicode::is_letter(character) && !unicode::is_number(character) && !unicode::is_space(character);
}

bool is_line_end(char32_t character) { return character == '\r' || character == '\n'; }

// Returns where a run of at most `limit` characters of one kind ends.
std::size_t run(std::string_view text, std::size_t at, Kind kind, std::size_t limit = std::string_view::npos) {
  while (at < text.size() && limit-- > 0) {
    std::size_t after = at;
    if (!kind(utf8::next(text, after))) break;
    at = after;
  }
  return at;
}

// 's 't 're 've 'm 'll 'd; without case the long s (U+017F) is an s as well. Returns `begin` where there is none.
std::size_t contraction(std::string_view text, std::size_t begin, bool any_case) {
  if (text[begin] != '\'') return begin;
  const auto letter = [&](std::size_t at) -> char {
    if (at >= text.size()) return 0;
    const char found = text[at];
    return any_case && found >= 'A' && found <= 'Z' ? static_cast<char>(found | 0x20) : found;
  };
  const char first = letter(begin + 1), second = letter(begin + 2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return begin + 2;
  if (((first == 'r' || first == 'v') && second == 'e') || (first == 'l' && second == 'l')) return begin + 3;
  if (any_case && text.substr(begin + 1, 2) == "\xC5\xBF") return begin + 3;
  return begin;
}

// White space: up to the last line end in it where `lines`; else all of it at the end of the text; else all but its
// last character, which belongs to what follows; else that character.
std::size_t spaces(std::string_view text, std::size_t begin, bool lines) {
  std::size_t at = begin, last = begin, line = begin;  // where the last character begins, where the last line ends
  while (at < text.size()) {
    std::size_t after = at;
    const char32_t character = utf8::next(text, after);
    if (!unicode::is_space(character)) break;
    last = at;
    at = after;
    if (is_line_end(character)) line = at;
  }
  if (lines && line > begin) return line;
  return at == text.size() || last == begin ? at : last;
}

std::size_t gpt2_end(std::string_view text, std::size_t begin) {
  if (const std::size_t end = contraction(text, begin, false); end > begin) return end;
  const std::size_t start = begin + (text[begin] == ' ' ? 1 : 0);
  for (const Kind kind : {unicode::is_letter, unicode::is_number, is_other}) {
    if (const std::size_t end = run(text, start, kind); end > start) return end;
  }
  return spaces(text, begin, false);
}

std::size_t qwen2_end(std::string_view text, std::size_t begin, std::size_t digits) {
  if (const std::size_t end = contraction(text, begin, true); end > begin) return end;
  std::size_t after = begin;
  const char32_t first = utf8::next(text, after);
  if (unicode::is_letter(first)) return run(text, after, unicode::is_letter);
  if (unicode::is_number(first)) return run(text, begin, unicode::is_number, digits);
  if (!is_line_end(first)) {
    if (const std::size_t end = run(text, after, unicode::is_letter); end > after) return end;
  }
  const std::size_t start = begin + (first == ' ' ? 1 : 0);
  if (const std::size_t end = run(text, start, is_other); end > start) return run(text, end, is_line_end);
  return spaces(text, begin, true);
}

}  // namespace

std::optional<SplitPattern> find_split_pattern(std::string_view regex) {
  for (const auto& [spelling, pattern] : {std::pair{kQwen2Regex, SplitPattern::kQwen2},
                                          std::pair{kLlama3Regex, SplitPattern::kLlama3},
                                          std::pair{kGpt2Regex, SplitPattern::kGpt2}}) {
    if (regex == spelling) return pattern;
  }
  return std::nullopt;
}

std::size_t word_end(SplitPattern pattern, std::string_view text, std::size_t begin) {
  if (pattern == SplitPattern::kGpt2) return gpt2_end(text, begin);
  return qwen2_end(text, begin, pattern == SplitPattern::kQwen2 ? 1 : 3);
}

}  // namespace ar
