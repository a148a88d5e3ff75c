#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

#include "gather/gather_cuda.hpp"
#include "gather/gather_kernel.cuh"

namespace ar::gather {
namespace {

constexpr int kThreads = 512;
constexpr std::int64_t kBlocksPerProcessor = 2;
constexpr std::int64_t kMaxBlocks = 0x7fffffff;
constexpr std::size_t kMaxRowBytes = std::size_t{1} << 30;

std::string failure(const char* what, cudaError_t error) {
  return std::string("TokenGather: ") + what + "; got: " + cudaGetErrorName(error) + ", " + cudaGetErrorString(error);
}

std::int64_t quotient_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

// How many blocks share a row: enough to fill the device twice, at most one a row of the output.
std::int64_t parts_of_row(const Shape& shape, int processors) {
  const std::int64_t wanted = quotient_up(kBlocksPerProcessor * processors, shape.batch);
  return std::clamp(wanted, quotient_up(shape.keep, kMaxShare), shape.keep);
}

// What all launches of one call share.
struct Call {
  const Shape& shape;
  const Tensors& tensors;
  std::size_t row_bytes;
  std::int64_t parts;
  cudaStream_t stream;
};

template <typename Unit>
std::string launch(const Call& call) {
  Launch<Unit> arguments{reinterpret_cast<const std::uint32_t*>(call.tensors.scores),
                         call.tensors.positions,
                         static_cast<const Unit*>(call.tensors.hidden),
                         static_cast<Unit*>(call.tensors.gathered),
                         call.tensors.gathered_positions,
                         call.tensors.keep,
                         static_cast<int>(call.shape.tokens),
                         static_cast<int>(call.shape.keep),
                         static_cast<int>(call.row_bytes / sizeof(Unit)),
                         static_cast<int>(call.parts)};
  void* pointers[] = {&arguments};
  const dim3 grid(static_cast<unsigned>(call.shape.batch * call.parts));
  const auto kernel = reinterpret_cast<const void*>(&token_gather<Unit, kThreads>);
  // Its own status, not cudaGetLastError(): that would also report, and clear, what others did wrong before.
  const cudaError_t error = cudaLaunchKernel(kernel, grid, dim3(kThreads), pointers, 0, call.stream);
  return error == cudaSuccess ? "" : failure("the kernel could not be launched", error);
}

// Whether rows and both ends are aligned for units of this size.
template <typename Unit>
bool fits(const Call& call) {
  const auto address = [](const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); };
  return (address(call.tensors.hidden) | address(call.tensors.gathered) | call.row_bytes) % sizeof(Unit) == 0;
}

}  // namespace

std::string gather_cuda(const Shape& shape, std::size_t element_bytes, const Tensors& tensors, void* stream) {
  if (shape.batch == 0) return "";
  int device = 0;
  int processors = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return failure("no CUDA device", error);
  if (const cudaError_t error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
      error != cudaSuccess) {
    return failure("the device does not say how many processors it has", error);
  }
  const Call call{shape, tensors, static_cast<std::size_t>(shape.hidden) * element_bytes,
                  parts_of_row(shape, processors), static_cast<cudaStream_t>(stream)};
  if (shape.batch > kMaxBlocks / call.parts || call.row_bytes > kMaxRowBytes) {
    return "TokenGather: too large for one launch; got: B = " + std::to_string(shape.batch) +
           ", bytes of a row = " + std::to_string(call.row_bytes) + "; wanted: at most 2^31 - 1 blocks, and 2^30 bytes";
  }
  if (fits<uint4>(call)) return launch<uint4>(call);
  if (fits<std::uint32_t>(call)) return launch<std::uint32_t>(call);
  if (fits<std::uint16_t>(call)) return launch<std::uint16_t>(call);
  return launch<std::uint8_t>(call);
}

}  // namespace ar::gather
