// SHA-256 (FIPS 180-4).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "contract/sha256_compress.hpp"

namespace ar {

class Sha256 {
 public:
  Sha256();  // with the best function of this processor
  explicit Sha256(Sha256Compress compress);
  void update(const void* data, std::size_t bytes);
  std::string hex();  // 64 lower-case digits; nothing may be added afterwards

 private:
  Sha256Compress compress_;
  std::array<uint32_t, 8> state_;
  std::array<uint8_t, 64> block_{};
  std::size_t held_ = 0;
  uint64_t bytes_ = 0;
};

std::string sha256_hex(std::string_view data);

}  // namespace ar
