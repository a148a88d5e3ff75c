// The KV pool: caches of one or more sequences, grown in place by the decoder graph; runtime/cache.py.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "contract/manifest.hpp"
#include "engines/backend.hpp"

namespace ar {

// Where a sequence's next token goes: its position counts the unpruned prompt, its slots the rows that are held.
struct Clocks {
  int64_t position = 0, slot = 0;
  int64_t kept_slot = 0;  // in layers from K on
  int64_t free_slots = 0;
};

struct PoolShape {
  int64_t sequences = 1;
  int64_t rows = 0, kept_rows = 0;  // of each sequence, prompt and new tokens: below K, and from K on
};

// One thread at a time. The first `n` slots are those in use.
class Pool {
 public:
  // `layer_mask` [M] is that of a dynamic entry: layers that are skipped hold nothing; empty otherwise.
  Pool(std::shared_ptr<const Session> decoder, const Pruning& pruning, const PoolShape& shape, int64_t vocabulary,
       const std::vector<uint8_t>& layer_mask = {});
  ~Pool();
  Pool(Pool&&) noexcept;

  // Runs a prompt into a slot, whose sequence is replaced. `feeds` are all inputs but caches, slots and layer mask;
  // `clocks` those after it. Returns the outputs but the caches. Throws AR_BACKEND_ERROR.
  Tensors prefill(const Feeds& feeds, const Clocks& clocks, int64_t slot = 0);
  // Puts ids [B][S], as many for each, behind the sequences of the first B slots; returns their logits [B, S, V]. Throws
  // AR_INPUT_INVALID (no token, more than there are free slots, a slot without a sequence) or AR_BACKEND_ERROR.
  std::vector<float> advance(const std::vector<std::vector<int64_t>>& ids);
  // Moves a sequence to a slot, whose own is forgotten.
  void move(int64_t from, int64_t to);
  const Clocks& clocks(int64_t slot = 0) const;

 private:
  struct Step;  // the decoder tied to memory, for so many sequences and new tokens

  Step& tie(int64_t sequences, int64_t count);

  std::shared_ptr<const Session> decoder_;
  int64_t vocabulary_;
  std::map<std::string, std::unique_ptr<Slots>> caches_;
  Tensors mask_;
  std::vector<std::optional<Clocks>> clocks_;
  std::map<std::pair<int64_t, int64_t>, std::shared_ptr<Step>> steps_;
};

}  // namespace ar
