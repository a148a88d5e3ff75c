// Which NVIDIA GPUs this machine has: for TensorRT's backend by the driver's own library, which is opened and never
// linked (as engines/tensorrt/gpus.py); for ONNX Runtime's by files of Linux (as engines/onnxruntime/session.py).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace ar {

struct CudaGpu {
  std::string name;    // "NVIDIA H100 80GB"
  int64_t sm = 0;      // compute capability, 90 for 9.0
  std::string driver;  // the newest CUDA that its driver runs, "CUDA 13.0"
};

inline constexpr const char* kCudaDriver = "libcuda.so.1";

// Returns the GPUs that this process may use, in CUDA's order; none without a driver.
std::vector<CudaGpu> cuda_gpus(const std::string& driver = kCudaDriver);

// Returns one GPU. Throws AR_ENGINE_UNAVAILABLE where there is no such GPU, or no driver.
CudaGpu cuda_gpu(int index, const std::string& driver = kCudaDriver);

// Fills memory of a GPU with zeros, and waits for that. Throws AR_BACKEND_ERROR.
void cuda_zero(int index, void* memory, std::size_t bytes, const std::string& driver = kCudaDriver);

struct Gpu {  // as Linux's NVIDIA driver names it
  std::string name;    // "NVIDIA A100-SXM4-40GB"; "cuda:0" where the driver does not say
  std::string driver;  // "550.54.14", or empty
};

Gpu read_gpu(int index, const std::filesystem::path& folder = "/proc/driver/nvidia");

}  // namespace ar
