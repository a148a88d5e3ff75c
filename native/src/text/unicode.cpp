#include "text/unicode.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "text/unicode_tables.hpp"
#include "contract/utf8.hpp"

namespace ar::unicode {
namespace {

// Returns the first row of a table of `count` rows whose key is not below `wanted`; `key(row)` is ascending.
template <typename Key, typename Wanted>
std::size_t lower_row(std::size_t count, Key key, const Wanted& wanted) {
  std::size_t low = 0, high = count;
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    if (key(middle) < wanted) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

bool within(const std::uint32_t* ranges, std::size_t count, char32_t character) {
  const auto last = [ranges](std::size_t row) { return ranges[2 * row + 1]; };
  const std::size_t row = lower_row(count, last, static_cast<std::uint32_t>(character));
  return row < count && character >= ranges[2 * row];
}

// ---- Normalisation form C: decompose, put marks into their canonical order, compose ----

// Hangul syllables are composed of a leading consonant, a vowel and an optional trailing consonant by arithmetic.
constexpr char32_t kSyllable = 0xAC00, kLeading = 0x1100, kVowel = 0x1161, kTrailing = 0x11A7;
constexpr char32_t kLeadings = 19, kVowels = 21, kTrailings = 28, kSyllables = kLeadings * kVowels * kTrailings;

struct Mark {
  char32_t character;
  std::uint32_t combining;  // class
};

std::uint32_t combining_class(char32_t character) {
  if (character < 0x300) return 0;
  const auto last = [](std::size_t row) { return kCombining[3 * row + 1]; };
  const std::size_t row = lower_row(kCombiningCount, last, static_cast<std::uint32_t>(character));
  return row < kCombiningCount && character >= kCombining[3 * row] ? kCombining[3 * row + 2] : 0;
}

void decompose(char32_t character, std::vector<Mark>& marks) {
  if (character < 0xC0) return marks.push_back({character, 0});
  if (character - kSyllable < kSyllables && character >= kSyllable) {
    const char32_t index = character - kSyllable;
    marks.push_back({kLeading + index / (kVowels * kTrailings), 0});
    marks.push_back({kVowel + index % (kVowels * kTrailings) / kTrailings, 0});
    if (index % kTrailings != 0) marks.push_back({kTrailing + index % kTrailings, 0});
    return;
  }
  const auto wanted = static_cast<std::uint32_t>(character);
  const std::size_t pair = lower_row(kPairsCount, [](std::size_t row) { return kPairs[3 * row]; }, wanted);
  if (pair < kPairsCount && kPairs[3 * pair] == wanted) {
    decompose(kPairs[3 * pair + 1], marks);
    return decompose(kPairs[3 * pair + 2], marks);
  }
  const std::size_t single = lower_row(kSinglesCount, [](std::size_t row) { return kSingles[2 * row]; }, wanted);
  if (single < kSinglesCount && kSingles[2 * single] == wanted) return decompose(kSingles[2 * single + 1], marks);
  marks.push_back({character, combining_class(character)});
}

// Returns the character that two compose into, or 0.
char32_t composite(char32_t first, char32_t second) {
  if (first - kLeading < kLeadings && first >= kLeading && second >= kVowel && second - kVowel < kVowels) {
    return kSyllable + ((first - kLeading) * kVowels + (second - kVowel)) * kTrailings;
  }
  const bool open = first >= kSyllable && first - kSyllable < kSyllables && (first - kSyllable) % kTrailings == 0;
  if (open && second > kTrailing && second - kTrailing < kTrailings) return first + (second - kTrailing);
  const auto key = [](std::uint32_t one, std::uint32_t other) { return (std::uint64_t{one} << 32) | other; };
  const auto parts = [&key](std::size_t row) {
    const std::uint32_t* pair = kPairs + 3 * kCompositions[row];
    return key(pair[1], pair[2]);
  };
  const std::uint64_t wanted = key(static_cast<std::uint32_t>(first), static_cast<std::uint32_t>(second));
  const std::size_t row = lower_row(kCompositionsCount, parts, wanted);
  return row < kCompositionsCount && parts(row) == wanted ? kPairs[3 * kCompositions[row]] : 0;
}

void order(std::vector<Mark>& marks) {
  const auto starts = [](const Mark& mark) { return mark.combining == 0; };
  const auto below = [](const Mark& one, const Mark& other) { return one.combining < other.combining; };
  for (auto begin = marks.begin(); begin != marks.end();) {
    begin = std::find_if_not(begin, marks.end(), starts);
    const auto end = std::find_if(begin, marks.end(), starts);
    std::stable_sort(begin, end, below);
    begin = end;
  }
}

// Composes in place: each mark with the last starter before it, unless one of its class or higher is between.
void compose(std::vector<Mark>& marks) {
  std::size_t kept = 0, starter = 0;
  bool any = false;
  std::uint32_t highest = 0;  // class of the last mark kept behind the starter
  for (std::size_t at = 0; at < marks.size(); ++at) {
    const Mark mark = marks[at];
    const bool adjacent = any && kept == starter + 1;
    if (any && (adjacent || highest < mark.combining)) {
      if (const char32_t made = composite(marks[starter].character, mark.character)) {
        marks[starter].character = made;
        continue;
      }
    }
    if (mark.combining == 0) {
      starter = kept;
      any = true;
    }
    highest = mark.combining;
    marks[kept++] = mark;
  }
  marks.resize(kept);
}

}  // namespace

bool is_letter(char32_t character) {
  if (character < 0x80) return (character | 0x20) >= 'a' && (character | 0x20) <= 'z';
  return within(kLetters, kLettersCount, character);
}

bool is_number(char32_t character) {
  if (character < 0x80) return character >= '0' && character <= '9';
  return within(kNumbers, kNumbersCount, character);
}

bool is_space(char32_t character) {
  if (character < 0x80) return character == ' ' || (character >= 0x09 && character <= 0x0D);
  return character == 0x85 || character == 0xA0 || character == 0x1680 || character == 0x2028 || character == 0x2029 ||
         (character >= 0x2000 && character <= 0x200A) || character == 0x202F || character == 0x205F ||
         character == 0x3000;
}

bool is_python_space(char32_t character) { return is_space(character) || (character >= 0x1C && character <= 0x1F); }

std::string_view strip(std::string_view text) {
  std::size_t begin = 0, end = text.size();
  for (std::size_t at = 0; at < end && is_python_space(utf8::next(text, at));) begin = at;
  for (std::size_t at = end; at > begin && is_python_space(utf8::previous(text, at));) end = at;
  return text.substr(begin, end - begin);
}

std::string nfc(std::string_view text) {
  const auto plain = [](char byte) { return static_cast<unsigned char>(byte) < 0x80; };
  if (std::all_of(text.begin(), text.end(), plain)) return std::string(text);
  std::vector<Mark> marks;
  marks.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) decompose(utf8::next(text, at), marks);
  order(marks);
  compose(marks);
  std::string composed;
  composed.reserve(text.size());
  for (const Mark& mark : marks) utf8::append(composed, mark.character);
  return composed;
}

}  // namespace ar::unicode
