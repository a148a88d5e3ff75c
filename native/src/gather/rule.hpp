// The rule of allrounder::TokenGather in the parts that a CPU and a GPU share.
//
// What it is: the order of scores as unsigned integers, and the limits of a radix digit.
// Every function is constexpr, so that device code may call it.
#pragma once

#include <cstdint>

namespace ar::gather {

// Maps the bits of a float32 score to an integer of the same order: a > b as scores when key(a) > key(b).
// NaN counts as -inf and -0 equals +0, as in the op's function body of standard ONNX ops.
constexpr std::uint32_t score_key(std::uint32_t bits) {
  constexpr std::uint32_t kSign = 0x80000000u;
  constexpr std::uint32_t kInfinity = 0x7f800000u;
  const std::uint32_t magnitude = bits & ~kSign;
  if (magnitude > kInfinity) return ~(kSign | kInfinity);
  if (magnitude == 0) return kSign;
  return (bits & kSign) != 0 ? ~bits : bits | kSign;
}

inline constexpr int kKeyBits = 32;
inline constexpr int kDigitBits = 8;
inline constexpr int kDigits = 1 << kDigitBits;

constexpr int digit(std::uint32_t key, int shift) { return static_cast<int>((key >> shift) & (kDigits - 1u)); }

// Whether two keys agree in every digit above the one at `shift`.
constexpr bool same_above(std::uint32_t key, std::uint32_t other, int shift) {
  return shift + kDigitBits >= kKeyBits || ((key ^ other) >> (shift + kDigitBits)) == 0;
}

// Which keys of a row are kept: all that are at least `from`, and the first `ties` of those one below it.
struct Threshold {
  std::uint32_t from;
  int ties;

  constexpr bool above(std::uint32_t key) const { return key >= from; }
  constexpr bool tied(std::uint32_t key) const { return ties > 0 && key == from - 1; }
};

}  // namespace ar::gather
