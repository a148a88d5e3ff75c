// Images as this tool reads them: binary PPM (P6), or raw RGB bytes whose size is given.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tool {

struct Image {
  std::vector<std::uint8_t> rgb;
  std::int64_t width = 0, height = 0;
};

// Reads a P6 file. Throws std::runtime_error: no such file, another format, too few bytes.
Image read_ppm(const std::string& path);
// Reads raw bytes; `size` is "640x480". Throws the same.
Image read_raw(const std::string& path, const std::string& size);

}  // namespace tool
