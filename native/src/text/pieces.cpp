#include "text/pieces.hpp"

#include <algorithm>
#include <tuple>
#include <utility>

#include "contract/error.hpp"
#include "contract/utf8.hpp"

namespace ar {
namespace {

bool ends_broken(std::string_view text) {
  const std::string_view broken = utf8::kReplacement;
  return text.size() >= broken.size() && text.substr(text.size() - broken.size()) == broken;
}

// Returns the length of the longest proper beginning of `stop` with which `text` ends.
std::size_t overlap(std::string_view text, std::string_view stop) {
  for (std::size_t size = std::min(stop.size() - 1, text.size()); size > 0; --size) {
    if (text.substr(text.size() - size) == stop.substr(0, size)) return size;
  }
  return 0;
}

}  // namespace

Detokeniser::Detokeniser(Decode decode) : decode_(std::move(decode)) {}

std::string Detokeniser::add(int64_t token) {
  pending_.push_back(token);
  return take(false);
}

std::string Detokeniser::finish() { return take(true); }

// Each piece is the difference between two texts that begin at the same token, so decoders that treat the first token
// differently (a leading space is stripped) need no special case.
std::string Detokeniser::take(bool all) {
  std::vector<int64_t> whole = context_;
  whole.insert(whole.end(), pending_.begin(), pending_.end());
  const std::size_t before = utf8::count(decode_(context_));
  const std::string after = decode_(whole);
  if (!all && (utf8::count(after) <= before || ends_broken(after))) return "";
  context_ = std::exchange(pending_, {});
  return std::string(utf8::after(after, before));
}

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
