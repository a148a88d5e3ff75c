#include "cuda_double.hpp"

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

namespace ar::testing {

CudaDouble& cuda_double() {
  static CudaDouble made;
  return made;
}

}  // namespace ar::testing

using Work = std::vector<std::function<void()>>;

struct CUstream_st {
  Work queue, captured;
  bool capturing = false;
  void put(std::function<void()> work) { (capturing ? captured : queue).push_back(std::move(work)); }
};
struct CUgraph_st {
  Work work;
};
struct CUgraphExec_st {
  Work work;
};

namespace {

ar::testing::CudaDouble& gpu() { return ar::testing::cuda_double(); }

}  // namespace

extern "C" {

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
const char* cudaGetErrorName(cudaError_t) { return "cudaErrorOfTheDouble"; }
const char* cudaGetErrorString(cudaError_t) { return "the double was told to fail"; }

cudaError_t cudaMalloc(void** address, size_t bytes) {
  if (!gpu().has_memory) return cudaErrorMemoryAllocation;
  *address = std::malloc(bytes);
  ++gpu().blocks;
  return cudaSuccess;
}
cudaError_t cudaFree(void* address) {
  if (address != nullptr) --gpu().blocks;
  std::free(address);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (flags != cudaStreamNonBlocking) return cudaErrorInvalidValue;
  *stream = new CUstream_st;
  ++gpu().streams;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  --gpu().streams;
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream->capturing) return cudaErrorStreamCaptureUnsupported;
  for (const auto& work : std::exchange(stream->queue, {})) work();
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  if (stream->capturing) return cudaErrorStreamCaptureUnsupported;  // from memory that may be paged
  stream->put([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t work, void* data) {
  stream->put([=] { work(data); });
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (gpu().refuses_capture || mode != cudaStreamCaptureModeThreadLocal) return cudaErrorStreamCaptureUnsupported;
  stream->capturing = true;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  stream->capturing = false;
  *graph = new CUgraph_st{std::exchange(stream->captured, {})};
  ++gpu().graphs;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  --gpu().graphs;
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{graph->work};
  ++gpu().executables;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  --gpu().executables;
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  ++gpu().launches;
  for (const auto& work : executable->work) stream->put(work);
  return cudaSuccess;
}

}  // extern "C"
