#include "contract/sha256.hpp"

#include <algorithm>

#include "contract/sha256_compress.hpp"

namespace ar {
namespace {

// The first 32 bits of the fractional parts of the square roots of the first 8 primes.
constexpr std::array<uint32_t, 8> kStart = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                            0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

Sha256Compress best() {
  const Sha256Compress accelerated = accelerated_compress();
  return accelerated ? accelerated : sha256_compress_portable;
}

}  // namespace

Sha256::Sha256() : state_(kStart) {
  static const Sha256Compress kBest = best();
  compress_ = kBest;
}

Sha256::Sha256(Sha256Compress compress) : compress_(compress), state_(kStart) {}

void Sha256::update(const void* data, std::size_t bytes) {
  const auto* next = static_cast<const uint8_t*>(data);
  bytes_ += bytes;
  if (held_ > 0) {
    const std::size_t taken = std::min(bytes, block_.size() - held_);
    std::copy_n(next, taken, block_.begin() + static_cast<std::ptrdiff_t>(held_));
    held_ += taken, next += taken, bytes -= taken;
    if (held_ < block_.size()) return;
    compress_(state_.data(), block_.data(), 1);
    held_ = 0;
  }
  const std::size_t blocks = bytes / block_.size();
  compress_(state_.data(), next, blocks);
  held_ = bytes % block_.size();
  std::copy_n(next + blocks * block_.size(), held_, block_.begin());
}

std::string Sha256::hex() {
  const uint64_t bits = bytes_ * 8;
  const std::size_t zeros = (held_ < 56 ? 55 : 119) - held_;  // one byte 0x80, zeros, and the length fill whole blocks
  std::array<uint8_t, 128> end{0x80};
  for (std::size_t i = 0; i < 8; ++i) end[1 + zeros + i] = static_cast<uint8_t>(bits >> (56 - 8 * i));
  update(end.data(), zeros + 9);
  std::string text;
  for (const uint32_t word : state_) {
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[(word >> shift) & 15];
  }
  return text;
}

std::string sha256_hex(std::string_view data) {
  Sha256 digest;
  digest.update(data.data(), data.size());
  return digest.hex();
}

}  // namespace ar
