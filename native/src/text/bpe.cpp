#include "text/bpe.hpp"

#include <cstdio>
#include <queue>

#include "contract/error.hpp"
#include "contract/utf8.hpp"

namespace ar {
namespace {

uint64_t pair_key(uint32_t left, uint32_t right) { return (uint64_t{left} << 32) | right; }

}  // namespace

// A symbol of a word, in a doubly linked list within a vector; positions are never reused.
struct Bpe::Symbol {
  uint32_t id;
  int32_t previous, next;  // -1: none
  bool removed;
};

// A word while it is merged: the best pair first, by rank and then from the left.
class Bpe::Word {
 public:
  explicit Word(const Bpe& bpe) : bpe_(bpe) {}

  void add(uint32_t id) {
    const auto at = static_cast<int32_t>(symbols_.size());
    if (at > 0) symbols_.back().next = at;
    symbols_.push_back({id, at - 1, -1, false});
  }

  // Characters without a token are held until the next one that has a token, as neighbours may become one.
  void add_unknown(uint32_t id, bool fuse) {
    if (held_ && !fuse) add(*held_);
    held_ = id;
  }
  void release() {
    if (held_) add(*held_);
    held_.reset();
  }

  void merge_all() {
    for (std::size_t at = 0; at + 1 < symbols_.size(); ++at) propose(static_cast<int32_t>(at));
    while (!queue_.empty()) {
      const Candidate best = queue_.top();
      queue_.pop();
      Symbol& left = at(best.at);
      if (left.removed || left.next < 0) continue;
      Symbol& right = at(left.next);
      const Merge* now = bpe_.merge(left.id, right.id);
      if (now == nullptr || now->id != best.id) continue;  // proposed before a neighbour was merged
      left.id = best.id;
      left.next = right.next;
      right.removed = true;
      if (right.next >= 0) at(right.next).previous = best.at;
      if (left.previous >= 0) propose(left.previous);
      propose(best.at);
    }
  }

  void write(std::vector<int64_t>& ids) const {
    for (const Symbol& symbol : symbols_) {
      if (!symbol.removed) ids.push_back(symbol.id);
    }
  }

 private:
  struct Candidate {
    uint32_t rank;
    int32_t at;
    uint32_t id;  // what the pair becomes
    bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
  };

  Symbol& at(int32_t position) { return symbols_[static_cast<std::size_t>(position)]; }

  void propose(int32_t position) {
    const Symbol& left = at(position);
    if (left.next < 0) return;
    if (const Merge* found = bpe_.merge(left.id, at(left.next).id)) queue_.push({found->rank, position, found->id});
  }

  const Bpe& bpe_;
  std::vector<Symbol> symbols_;
  std::optional<uint32_t> held_;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue_;
};

Bpe::Bpe(BpeModel model)
    : unknown_(std::move(model.unknown)),
      fuse_unknown_(model.fuse_unknown),
      byte_fallback_(model.byte_fallback),
      ignore_merges_(model.ignore_merges) {
  ids_.reserve(model.vocabulary.size());
  by_id_.reserve(model.vocabulary.size());
  for (auto& [token, id] : model.vocabulary) {
    const std::string& kept = tokens_.emplace_back(std::move(token));
    if (!ids_.emplace(kept, id).second || !by_id_.emplace(id, &kept).second) {
      throw Error(AR_BUNDLE_CORRUPT, "a token or its id occurs twice in the vocabulary",
                  {"tokenizer/tokenizer.json at `$.model.vocab`", quoted(kept) + ": " + std::to_string(id), "", ""});
    }
  }
  add_merges(model.merges);
  bytes_.resize(256);
  for (unsigned byte = 0; byte < 256 && byte_fallback_; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    bytes_[byte] = id(name);
  }
}

void Bpe::add_merges(const std::vector<std::pair<std::string, std::string>>& merges) {
  merges_.reserve(merges.size());
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto known = [&](const std::string& token) {
      if (const auto found = id(token)) return *found;
      throw Error(AR_BUNDLE_CORRUPT, "a merge of or into what is no token",
                  {"tokenizer/tokenizer.json at `$.model.merges[" + std::to_string(rank) + "]`", quoted(token),
                   "tokens of `$.model.vocab`", ""});
    };
    const auto& [left, right] = merges[rank];
    merges_[pair_key(known(left), known(right))] = {static_cast<uint32_t>(rank), known(left + right)};
  }
}

void Bpe::encode(std::string_view word, std::vector<int64_t>& ids) const {
  if (ignore_merges_) {
    if (const auto whole = id(word)) return ids.push_back(*whole);
  }
  Word symbols(*this);
  for (std::size_t begin = 0, end = 0; begin < word.size(); begin = end) {
    utf8::next(word, end);
    const std::string_view character = word.substr(begin, end - begin);
    if (const auto found = id(character)) {
      symbols.release();
      symbols.add(*found);
    } else {
      add_unknown(character, symbols);
    }
  }
  symbols.release();
  symbols.merge_all();
  symbols.write(ids);
}

void Bpe::add_unknown(std::string_view character, Word& word) const {
  const auto token = [this](char byte) { return bytes_[static_cast<uint8_t>(byte)]; };
  bool whole = byte_fallback_;
  for (const char byte : character) whole = whole && token(byte);
  if (whole) {  // unknown characters that are held stay held: `tokenizers` writes them after such bytes
    for (const char byte : character) word.add(*token(byte));
    return;
  }
  if (!unknown_) return;  // such a character has no token at all
  const auto found = id(*unknown_);
  if (!found) {
    throw Error(AR_BUNDLE_CORRUPT, "the token of unknown characters is no token",
                {"tokenizer/tokenizer.json at `$.model.unk_token`", quoted(*unknown_), "one of `$.model.vocab`", ""});
  }
  word.add_unknown(*found, fuse_unknown_);
}

std::optional<uint32_t> Bpe::id(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

const std::string* Bpe::token(uint32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : found->second;
}

const Bpe::Merge* Bpe::merge(uint32_t left, uint32_t right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

}  // namespace ar
