#include "runtime/random.hpp"

#include <array>
#include <random>

namespace ar {
namespace {

constexpr std::size_t kPool = 4;  // words of a SeedSequence
using Pool = std::array<uint32_t, kPool>;

// One of SeedSequence's two hashes: a constant that changes with each word it has seen.
class Hash {
 public:
  Hash(uint32_t start, uint32_t factor) : constant_(start), factor_(factor) {}
  uint32_t operator()(uint32_t word) {
    word ^= constant_;
    constant_ *= factor_;
    word *= constant_;
    return word ^ (word >> 16);
  }

 private:
  uint32_t constant_, factor_;
};

uint32_t mix(uint32_t left, uint32_t right) {
  const uint32_t word = 0xca01f9ddU * left - 0x4973f715U * right;
  return word ^ (word >> 16);
}

Pool pool_of(uint64_t seed) {
  Hash hash(0x43b0d7e5U, 0x931e8875U);
  Pool pool{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (uint32_t& word : pool) word = hash(word);
  for (std::size_t from = 0; from < kPool; ++from) {
    for (std::size_t to = 0; to < kPool; ++to) {
      if (from != to) pool[to] = mix(pool[to], hash(pool[from]));
    }
  }
  return pool;
}

constexpr uint128 wide(uint64_t high, uint64_t low) { return (static_cast<uint128>(high) << 64) | low; }

constexpr uint128 kMultiplier = wide(0x2360ed051fc65da4U, 0x4385df649fccf645U);

}  // namespace

Random::Random(uint64_t seed) {
  const Pool pool = pool_of(seed);
  Hash hash(0x8b51f9ddU, 0x58f38dedU);
  std::array<uint64_t, kPool> words{};
  for (std::size_t index = 0; index < 2 * kPool; ++index) {
    words[index / 2] |= static_cast<uint64_t>(hash(pool[index % kPool])) << (32 * (index % 2));
  }
  increment_ = (wide(words[2], words[3]) << 1) | 1;
  state_ = (increment_ + wide(words[0], words[1])) * kMultiplier + increment_;
}

Random Random::fresh() {
  std::random_device system;
  return Random((static_cast<uint64_t>(system()) << 32) | system());
}

uint64_t Random::next() {
  state_ = state_ * kMultiplier + increment_;
  const uint64_t word = static_cast<uint64_t>(state_ >> 64) ^ static_cast<uint64_t>(state_);
  const auto turn = static_cast<unsigned>(state_ >> 122);
  return (word >> turn) | (word << ((64 - turn) % 64));
}

double Random::uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

}  // namespace ar
