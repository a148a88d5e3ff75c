// From logits to the next token: greedy choice and seeded sampling, by the rules of runtime/sampling.py.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <vector>

namespace ar {

struct Sampling {
  double temperature = 0;        // 0 takes the best token (the lowest id on ties); above, the logits are divided by it
  int64_t top_k = 0;             // only the best ones (at least; equals of the last stay in); 0: all
  double top_p = 1;              // only the smallest set of best tokens whose probability reaches it
  std::optional<uint64_t> seed;  // same seed, same draws, though not Python's; without one they are fresh each time

  void check() const;  // throws AR_INPUT_INVALID
};

// Draws the tokens of one request, as it holds the state of the draws.
class Picker {
 public:
  explicit Picker(const Sampling& sampling);
  // Throws AR_BACKEND_ERROR where the logits hold NaN or no finite value.
  int64_t operator()(const std::vector<float>& logits);

 private:
  Sampling sampling_;
  std::mt19937_64 random_;
};

}  // namespace ar
