#include "text/stops.hpp"

#include <algorithm>
#include <tuple>
#include <utility>

#include "contract/error.hpp"
#include "text/utf8.hpp"

namespace ar {
namespace {

// Returns the length of the longest proper beginning of `stop` with which `text` ends.
std::size_t overlap(std::string_view text, std::string_view stop) {
  for (std::size_t size = std::min(stop.size() - 1, text.size()); size > 0; --size) {
    if (text.substr(text.size() - size) == stop.substr(0, size)) return size;
  }
  return 0;
}

}  // namespace

StopTexts::StopTexts(std::vector<std::string> texts) : texts_(std::move(texts)) {
  for (const std::string& text : texts_) {
    if (text.empty() || !utf8::valid(text)) {
      throw Error(AR_INPUT_INVALID, "stop texts are non-empty strings", {"stop", quoted(text), "UTF-8", ""});
    }
  }
}

std::string StopTexts::add(std::string_view piece) {
  std::string text = std::exchange(held_, {}).append(piece);
  std::size_t start = std::string::npos, end = std::string::npos;
  for (const std::string& stop : texts_) {  // the first that is complete, so that pieces make no difference
    const std::size_t found = text.find(stop);
    if (found == std::string::npos) continue;
    const std::pair candidate{found + stop.size(), found};
    if (candidate < std::pair{end, start}) std::tie(end, start) = candidate;
  }
  if (start != std::string::npos) {
    reached_ = true;
    text.resize(start);
    return text;
  }
  std::size_t hold = 0;
  for (const std::string& stop : texts_) hold = std::max(hold, overlap(text, stop));
  held_ = text.substr(text.size() - hold);
  text.resize(text.size() - hold);
  return text;
}

std::string StopTexts::finish() { return std::exchange(held_, {}); }

}  // namespace ar
