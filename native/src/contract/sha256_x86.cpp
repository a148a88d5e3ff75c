// Which x86 processors have the SHA extensions.
#include <cpuid.h>

#include "contract/sha256_compress.hpp"

namespace ar {

void sha256_compress_x86(uint32_t* state, const uint8_t* data, std::size_t blocks);

Sha256Compress accelerated_compress() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool shuffles = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_SSSE3) != 0 && (c & bit_SSE4_1) != 0;
  const bool sha = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & (1u << 29)) != 0;  // leaf 7: EBX bit 29
  return shuffles && sha ? sha256_compress_x86 : nullptr;
}

}  // namespace ar
