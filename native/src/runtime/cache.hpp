// The KV pool of one request: the caches that prefill gave, tied to the decode graph once and grown in place.
// The rules are those of runtime/cache.py.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/backend.hpp"

namespace ar {

// Where the next token goes: its position counts the unpruned prompt, its slot the rows that are held.
struct Clocks {
  int64_t position = 0, slot = 0;
  int64_t free_slots = 0;
};

// Returns the output's name of a cache input, whose memory it shares: cache_key.3 -> cache_key_out.3; of any other
// input nothing.
std::optional<std::string> cache_output(const std::string& input);

class Cache {
 public:
  // `tensors` are prefill's outputs `cache_*` and, where dynamic, `layer_mask`; `clocks` are those after the prompt.
  // Throws AR_BACKEND_ERROR where the decode graph wants an input that is not among them.
  Cache(std::shared_ptr<const Session> decode, const Tensors& tensors, const Clocks& clocks, int64_t vocabulary);

  const Clocks& clocks() const { return clocks_; }
  // Puts `ids` behind what the cache holds and returns their logits [S, V]. One thread at a time. Throws
  // AR_INPUT_INVALID (no token, or more than there are free slots) or AR_BACKEND_ERROR.
  std::vector<float> advance(const std::vector<int64_t>& ids);

 private:
  void tie(int64_t count);

  std::shared_ptr<const Session> decode_;
  Clocks clocks_;
  int64_t vocabulary_;
  std::shared_ptr<Cell> position_, slot_;
  Tensors inputs_, outputs_;
  // The decode graph tied to memory, for a fixed number of new tokens.
  int64_t tied_ = 0;
  std::shared_ptr<Cell> ids_, logits_;
  std::unique_ptr<Bound> step_;
};

}  // namespace ar
