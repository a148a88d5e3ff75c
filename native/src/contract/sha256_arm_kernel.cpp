// The compression with ARMv8's SHA-256 instructions. Compiled with -march=armv8-a+crypto; see sha256_compress.hpp.
#include <arm_neon.h>

#include "contract/sha256_compress.hpp"

namespace ar {

void sha256_compress_arm(uint32_t* state, const uint8_t* data, std::size_t blocks) {
  uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
  for (; blocks > 0; --blocks, data += 64) {
    const uint32x4_t abcd_before = abcd, efgh_before = efgh;
    uint32x4_t words[4];  // the last sixteen, by fours
    for (int group = 0; group < 16; ++group) {
      uint32x4_t& next = words[group % 4];
      if (group < 4) {
        next = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 16 * group)));
      } else {
        const uint32x4_t partial = vsha256su0q_u32(next, words[(group + 1) % 4]);
        next = vsha256su1q_u32(partial, words[(group + 2) % 4], words[(group + 3) % 4]);
      }
      const uint32x4_t added = vaddq_u32(next, vld1q_u32(kSha256Constants + 4 * group));
      const uint32x4_t abcd_now = abcd;
      abcd = vsha256hq_u32(abcd, efgh, added);
      efgh = vsha256h2q_u32(efgh, abcd_now, added);
    }
    abcd = vaddq_u32(abcd, abcd_before);
    efgh = vaddq_u32(efgh, efgh_before);
  }
  vst1q_u32(state, abcd);
  vst1q_u32(state + 4, efgh);
}

}  // namespace ar
