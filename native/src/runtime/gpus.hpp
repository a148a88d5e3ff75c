// Which NVIDIA GPUs this machine has; as engines/tensorrt/gpus.py, whose facts the TensorRT backend goes by.
//
// What it is: their names and architectures, asked of the driver's own library, which is opened and never linked.
// What it knows: six functions of `libcuda`. What it does not know: CUDA's runtime, and what GPUs are used for.
#pragma once

#include <cstdint>
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

}  // namespace ar
