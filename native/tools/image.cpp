#include <cstdio>
#include <fstream>
#include <limits>
#include <stdexcept>

#include "commands.hpp"

namespace tool {
namespace {

constexpr std::int64_t kMostPixels = std::int64_t{1} << 28;  // the library refuses far smaller ones, with its reason

std::ifstream open(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": the image cannot be opened");
  return file;
}

Image pixels(std::istream& file, std::int64_t width, std::int64_t height, const std::string& path) {
  if (width < 1 || height < 1 || width > kMostPixels / height) throw std::runtime_error(path + ": an impossible size");
  Image image{std::vector<std::uint8_t>(static_cast<std::size_t>(3 * width * height)), width, height};
  const auto bytes = static_cast<std::streamsize>(image.rgb.size());
  file.read(reinterpret_cast<char*>(image.rgb.data()), bytes);
  if (file.gcount() != bytes) throw std::runtime_error(path + ": the image ends before its last pixel");
  return image;
}

// Reads the next number of a PPM's head; comments run from # to the line's end.
std::int64_t next(std::istream& file) {
  while ((file >> std::ws) && file.peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  std::int64_t number = 0;
  file >> number;
  return number;
}

}  // namespace

Image read_ppm(const std::string& path) {
  std::ifstream file = open(path);
  std::string magic(2, '\0');
  file.read(magic.data(), 2);
  const std::int64_t width = next(file), height = next(file), most = next(file);
  file.get();  // one white space before the pixels
  if (!file || magic != "P6" || most != 255) throw std::runtime_error(path + ": not a binary PPM (P6) of 8 bits");
  return pixels(file, width, height, path);
}

Image read_raw(const std::string& path, const std::string& size) {
  long long width = 0, height = 0;
  if (std::sscanf(size.c_str(), "%lldx%lld", &width, &height) != 2) {
    throw std::runtime_error("--size " + size + ": wanted WIDTHxHEIGHT");
  }
  std::ifstream file = open(path);
  return pixels(file, width, height, path);
}

}  // namespace tool
