// What Linux's NVIDIA driver tells about a GPU; the same rule as in engines/onnxruntime/session.py.
#pragma once

#include <filesystem>
#include <string>

namespace ar {

struct Gpu {
  std::string name;    // "NVIDIA A100-SXM4-40GB"; "cuda:0" where the driver does not tell
  std::string driver;  // "550.54.14", or empty
};

Gpu read_gpu(int index, const std::filesystem::path& folder = "/proc/driver/nvidia");

}  // namespace ar
