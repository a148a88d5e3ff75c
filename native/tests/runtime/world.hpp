// What tests on a real bundle need of their environment.
//
// ALLROUNDER_TEST_BUNDLE names what native/tests/write_bundle.py writes. Without it these tests are skipped; with it, an
// ONNX Runtime that is not found is a failure.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "contract/error.hpp"

namespace ar::test {

inline std::string bundle_path() {
  const char* named = std::getenv("ALLROUNDER_TEST_BUNDLE");
  return named != nullptr ? named : "";
}

// A test of a real bundle, with a cache of its own.
class OnBundle : public ::testing::Test {
 protected:
  void SetUp() override {
    if (bundle_path().empty()) {
      GTEST_SKIP() << "ALLROUNDER_TEST_BUNDLE names no bundle (native/tests/write_bundle.py writes one)";
    }
    cache_ = std::filesystem::temp_directory_path() / ("allrounder-" + std::to_string(std::random_device()()));
    std::filesystem::create_directories(cache_);
    setenv("XDG_CACHE_HOME", cache_.c_str(), 1);
  }
  void TearDown() override {
    if (!cache_.empty()) std::filesystem::remove_all(cache_);
  }
  std::filesystem::path cache_;
};

// Returns the status with which `work` fails, or AR_OK.
inline ar_status status_of(const std::function<void()>& work, std::string* message = nullptr) {
  try {
    work();
    return AR_OK;
  } catch (const Error& error) {
    if (message != nullptr) *message = error.what();
    return error.status();
  }
}

// An image, another one for each seed.
inline std::vector<uint8_t> image(int64_t width, int64_t height, unsigned seed = 0) {
  std::mt19937 random(seed);
  std::vector<uint8_t> bytes(static_cast<std::size_t>(3 * width * height));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::filesystem::path manifest_path(const std::filesystem::path& bundle) {
  const std::string pointer = read_file(bundle / "bundle.json");
  const std::size_t begin = pointer.find("manifest-");
  return bundle / pointer.substr(begin, pointer.rfind('"') - begin);
}

}  // namespace ar::test
