#include "engines/tensorrt/cuda.hpp"

#include <algorithm>

#include "contract/error.hpp"

namespace ar {
namespace {

void check(cudaError_t status, const char* where) {
  if (status == cudaSuccess) return;
  throw Error(AR_BACKEND_ERROR, "CUDA failed",
              {where, std::string(cudaGetErrorName(status)) + ", " + cudaGetErrorString(status), "", ""});
}

class CudaMemory final : public DeviceMemory {
 public:
  explicit CudaMemory(std::size_t bytes) {
    // An address even where there is nothing.
    check(cudaMalloc(&address_, std::max(bytes, std::size_t{1})), "cudaMalloc");
  }
  ~CudaMemory() override { cudaFree(address_); }
  void* address() const override { return address_; }

 private:
  void* address_ = nullptr;
};

class CudaWork final : public CapturedWork {
 public:
  CudaWork(cudaGraph_t graph, cudaStream_t stream) : stream_(stream) {
    const cudaError_t status = cudaGraphInstantiateWithFlags(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate");
  }
  ~CudaWork() override { cudaGraphExecDestroy(executable_); }
  void launch() override { check(cudaGraphLaunch(executable_, stream_), "cudaGraphLaunch"); }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t executable_ = nullptr;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int index) : index_(index) {}
  void use() override { use_cuda_device(index_); }
  std::unique_ptr<DeviceMemory> memory(std::size_t bytes) override { return std::make_unique<CudaMemory>(bytes); }
  std::unique_ptr<DeviceStream> stream() override { return std::make_unique<CudaStream>(); }

 private:
  int index_;
};

}  // namespace

void use_cuda_device(int index) { check(cudaSetDevice(index), "cudaSetDevice"); }

std::shared_ptr<Device> cuda_device(int index) { return std::make_shared<CudaDevice>(index); }

CudaStream::CudaStream() {
  check(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
}

CudaStream::~CudaStream() { cudaStreamDestroy(handle_); }

void CudaStream::write(void* device, const void* host, std::size_t bytes) {
  if (bytes != 0) check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, handle_), "to the device");
}

void CudaStream::read(void* host, const void* device, std::size_t bytes) {
  if (bytes != 0) check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, handle_), "from the device");
}

void CudaStream::wait() { check(cudaStreamSynchronize(handle_), "cudaStreamSynchronize"); }

std::unique_ptr<CapturedWork> CudaStream::capture(const std::function<void()>& enqueue) {
  check(cudaStreamBeginCapture(handle_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  cudaGraph_t graph = nullptr;
  try {
    enqueue();
  } catch (...) {
    cudaStreamEndCapture(handle_, &graph);  // the stream is of no use before
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(handle_, &graph), "cudaStreamEndCapture");
  return std::make_unique<CudaWork>(graph, handle_);
}

}  // namespace ar
