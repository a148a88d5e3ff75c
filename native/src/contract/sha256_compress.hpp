// SHA-256's compression function: one rule, several processors.
//
// What it is: the portable function, and the question which faster one this processor has.
// What it knows: blocks and state. What it does not know: padding, and who hashes what (sha256.hpp).
// accelerated_compress stands in sha256_x86.cpp, sha256_arm.cpp or sha256_absent.cpp; the build takes one of them.
// The kernels are compiled for processors that have the instructions, in files that hold nothing else, so that nothing
// of them runs before the question is answered.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ar {

// Takes `blocks` of 64 bytes into the eight words of state.
using Sha256Compress = void (*)(uint32_t* state, const uint8_t* data, std::size_t blocks);

extern const uint32_t kSha256Constants[64];

void sha256_compress_portable(uint32_t* state, const uint8_t* data, std::size_t blocks);

// Returns the function that uses this processor's own SHA-256 instructions, or null where it has none.
Sha256Compress accelerated_compress();

}  // namespace ar
