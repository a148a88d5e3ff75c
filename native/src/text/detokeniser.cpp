#include "text/detokeniser.hpp"

#include <string_view>
#include <utility>

#include "text/utf8.hpp"

namespace ar {
namespace {

bool ends_broken(std::string_view text) {
  const std::string_view broken = utf8::kReplacement;
  return text.size() >= broken.size() && text.substr(text.size() - broken.size()) == broken;
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

}  // namespace ar
