// The order of scores of allrounder::TokenGather, as unsigned integers.
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

}  // namespace ar::gather
