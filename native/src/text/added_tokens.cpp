#include "text/added_tokens.hpp"

#include <algorithm>

#include "text/unicode.hpp"
#include "contract/utf8.hpp"

namespace ar {
namespace {

uint64_t edge(std::size_t node, char byte) { return (uint64_t{node} << 8) | static_cast<uint8_t>(byte); }

// Returns where the white space before `end` begins, `limit` at the lowest.
std::size_t spaces_before(std::string_view text, std::size_t end, std::size_t limit) {
  for (std::size_t at = end; at > limit; end = at) {
    if (!unicode::is_space(utf8::previous(text, at))) break;
  }
  return end;
}

// Where white space ends, asked with positions that ascend; a run is read once however often it is asked about.
class SpacesBehind {
 public:
  explicit SpacesBehind(std::string_view text) : text_(text) {}

  std::size_t end(std::size_t begin) {
    if (begin < end_) return end_;
    end_ = begin;
    for (std::size_t at = begin; at < text_.size(); end_ = at) {
      if (!unicode::is_space(utf8::next(text_, at))) break;
    }
    return end_;
  }

 private:
  std::string_view text_;
  std::size_t end_ = 0;  // of the last run; what lies before it and is asked about lies in it
};

}  // namespace

bool AddedTokens::add(std::string_view text, const AddedToken& token) {
  std::size_t node = 0;
  for (const char byte : text) {
    const auto [found, fresh] = edges_.emplace(edge(node, byte), nodes_);
    nodes_ += fresh;
    node = found->second;
  }
  if (!ends_.emplace(node, tokens_.size()).second) return false;
  tokens_.push_back(token);
  return true;
}

std::optional<AddedTokens::Found> AddedTokens::longest(std::string_view text) const {
  std::optional<Found> best;
  std::size_t node = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const auto next = edges_.find(edge(node, text[at]));
    if (next == edges_.end()) break;
    node = next->second;
    if (const auto end = ends_.find(node); end != ends_.end()) best = Found{at + 1, &tokens_[end->second]};
  }
  return best;
}

std::vector<AddedTokens::Piece> AddedTokens::cut(std::string_view text) const {
  std::vector<Piece> pieces;
  SpacesBehind spaces(text);
  std::size_t written = 0;  // may go back: a token of white space may lie in what the one before took along
  for (std::size_t at = 0; at < text.size() && !tokens_.empty();) {
    const auto found = longest(text.substr(at));
    if (!found) {
      ++at;
      continue;
    }
    const std::size_t begin = at, end = at += found->length;
    if (found->token->special) continue;
    const std::size_t start = found->token->strip_left ? std::max(spaces_before(text, begin, written), written) : begin;
    if (written < start) pieces.push_back({text.substr(written, start - written), std::nullopt});
    pieces.push_back({{}, found->token->id});
    written = found->token->strip_right ? spaces.end(end) : end;
  }
  if (written < text.size()) pieces.push_back({text.substr(written), std::nullopt});
  return pieces;
}

}  // namespace ar
