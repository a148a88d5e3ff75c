// CUDA as the TensorRT backend needs it: memory, streams and captured graphs; engines/tensorrt/cuda.py. Only for
// tensorrt_cuda.cpp and tensorrt_library.cpp.
//
// Streams are of the kind that does not wait for CUDA's default stream, so that one thread may capture while others
// copy; whatever crosses between host and device is therefore waited for on the stream that carried it.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "engines/tensorrt/seam.hpp"

namespace ar {

// Makes a GPU the one that this thread's calls mean. Throws AR_BACKEND_ERROR.
void use_cuda_device(int index);

std::shared_ptr<Device> cuda_device(int index);

class CudaStream final : public DeviceStream {
 public:
  CudaStream();
  ~CudaStream() override;
  void write(void* device, const void* host, std::size_t bytes) override;
  void read(void* host, const void* device, std::size_t bytes) override;
  void wait() override;
  std::unique_ptr<CapturedWork> capture(const std::function<void()>& enqueue) override;
  cudaStream_t handle() const { return handle_; }

 private:
  cudaStream_t handle_ = nullptr;
};

}  // namespace ar
