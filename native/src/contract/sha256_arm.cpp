// Which ARMv8 processors have the SHA-256 instructions.
#include <asm/hwcap.h>
#include <sys/auxv.h>

#include "contract/sha256_compress.hpp"

namespace ar {

void sha256_compress_arm(uint32_t* state, const uint8_t* data, std::size_t blocks);

Sha256Compress accelerated_compress() {
  return (getauxval(AT_HWCAP) & HWCAP_SHA2) != 0 ? sha256_compress_arm : nullptr;
}

}  // namespace ar
