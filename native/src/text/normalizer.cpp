#include "text/normalizer.hpp"

#include <utility>

#include "text/unicode.hpp"

namespace ar {
namespace {

struct Apply {
  std::string text;
  std::string operator()(const Nfc&) const { return unicode::nfc(text); }
  std::string operator()(const Prepend& prepend) const { return text.empty() ? text : prepend.text + text; }
  std::string operator()(const Replace& replace) const { return replace_all(text, replace); }
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
  for (const NormalizerStep& step : steps) normalized = std::visit(Apply{std::move(normalized)}, step);
  return normalized;
}

}  // namespace ar
