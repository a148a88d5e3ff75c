// What is done to a stretch of text before it is cut into words.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace ar {

struct Nfc {};
struct Prepend {  // before a text that is not empty
  std::string text;
};
struct Replace {
  std::string from, to;  // `from` is not empty
};
using NormalizerStep = std::variant<Nfc, Prepend, Replace>;

std::string replace_all(std::string_view text, const Replace& replace);
std::string normalize(const std::vector<NormalizerStep>& steps, std::string_view text);

}  // namespace ar
