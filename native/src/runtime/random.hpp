// The random numbers of numpy's default_rng(seed): SeedSequence and PCG64 (XSL-RR), so that a seed draws the same
// tokens in both languages.
#pragma once

#include <cstdint>

namespace ar {

__extension__ using uint128 = unsigned __int128;

class Random {
 public:
  explicit Random(uint64_t seed);
  static Random fresh();  // seeded by the system

  uint64_t next();
  double uniform();  // [0, 1), 53 bits: Generator.random()

 private:
  uint128 state_ = 0, increment_ = 0;
};

}  // namespace ar
