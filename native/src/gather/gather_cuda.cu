#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

#include "gather/gather_cuda.hpp"
#include "gather/gather_kernel.cuh"

namespace ar::gather {
namespace {

constexpr int kThreads = 512;
constexpr std::int64_t kBlocksPerProcessor = 2;
constexpr std::size_t kMaxRowBytes = std::size_t{1} << 30;

std::string failure(const char* what, cudaError_t error) {
  return std::string("TokenGather: ") + what + "; got: " + cudaGetErrorName(error) + ", " + cudaGetErrorString(error);
}

// What all launches of one call share.
struct Call {
  const Shape& shape;
  const Choice& choice;
  const Tensors& tensors;
  const std::int32_t* sources;  // on the device
  std::size_t row_bytes;
  int processors;
  cudaStream_t stream;
};

template <typename Unit>
cudaError_t launch(const Call& call) {
  const std::int64_t rows_out = call.shape.batch * kept_rows(call.shape, call.choice);
  // Enough blocks to fill the device twice, at most one a row.
  const std::int64_t blocks = std::clamp<std::int64_t>(kBlocksPerProcessor * call.processors, 1,
                                                       std::max<std::int64_t>(rows_out, 1));
  Launch<Unit> arguments{static_cast<const Unit*>(call.tensors.hidden),
                         call.tensors.position_ids,
                         call.sources,
                         static_cast<Unit*>(call.tensors.gathered),
                         call.tensors.gathered_position_ids,
                         call.shape.batch * call.shape.rows,
                         rows_out,
                         call.shape.axes,
                         static_cast<int>(call.row_bytes / sizeof(Unit)),
                         static_cast<unsigned>(blocks)};
  void* pointers[] = {&arguments};
  const auto kernel = reinterpret_cast<const void*>(&token_gather<Unit, kThreads>);
  // Its own status, not cudaGetLastError(): that would also report, and clear, what others did wrong before.
  return cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), pointers, 0, call.stream);
}

// Launches with the widest units for which rows and both ends are aligned.
cudaError_t launch_widest(const Call& call) {
  const auto address = [](const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); };
  const auto ends = address(call.tensors.hidden) | address(call.tensors.gathered) | call.row_bytes;
  if (ends % sizeof(uint4) == 0) return launch<uint4>(call);
  if (ends % sizeof(std::uint32_t) == 0) return launch<std::uint32_t>(call);
  if (ends % sizeof(std::uint16_t) == 0) return launch<std::uint16_t>(call);
  return launch<std::uint8_t>(call);
}

template <typename Value>
cudaError_t copy(Value* to, const Value* from, std::size_t count, cudaMemcpyKind kind, cudaStream_t stream) {
  return count == 0 ? cudaSuccess : cudaMemcpyAsync(to, from, count * sizeof(Value), kind, stream);
}

// With image tokens: brings what was chosen to the device, where the list of rows lives as long as the launch. What lies
// in main memory may be paged, so it is copied away before cudaMemcpyAsync returns.
cudaError_t launch_chosen(Call call) {
  const std::vector<std::int32_t> sources(call.choice.rows.begin(), call.choice.rows.end());
  cudaError_t error = copy(call.tensors.keep_indices, call.choice.keep.data(), call.choice.keep.size(),
                           cudaMemcpyHostToDevice, call.stream);
  if (error != cudaSuccess) return error;
  void* memory = nullptr;
  error = cudaMallocAsync(&memory, std::max<std::size_t>(sources.size(), 1) * sizeof(std::int32_t), call.stream);
  if (error != cudaSuccess) return error;
  auto* on_device = static_cast<std::int32_t*>(memory);
  error = copy(on_device, sources.data(), sources.size(), cudaMemcpyHostToDevice, call.stream);
  call.sources = on_device;
  if (error == cudaSuccess) error = launch_widest(call);
  const cudaError_t freed = cudaFreeAsync(memory, call.stream);
  return error == cudaSuccess ? freed : error;
}

}  // namespace

Choice choose_cuda(const Shape& shape, const Candidates& candidates, void* stream) {
  if (shape.tokens == 0 && shape.images == 0) return choose(shape, {});
  const auto tokens = static_cast<std::size_t>(shape.tokens);
  std::vector<float> scores(tokens);
  std::vector<std::int64_t> image_index(tokens);
  std::vector<std::int64_t> image_of(tokens);
  std::vector<std::int64_t> keep_counts(static_cast<std::size_t>(shape.images));
  auto* const on = static_cast<cudaStream_t>(stream);
  const auto fetch = [on](auto* to, const auto& from) {
    return copy(to->data(), from, to->size(), cudaMemcpyDeviceToHost, on);
  };
  for (const cudaError_t error :
       {fetch(&scores, candidates.scores), fetch(&image_index, candidates.image_index),
        fetch(&image_of, candidates.image_of), fetch(&keep_counts, candidates.keep_counts), cudaStreamSynchronize(on)}) {
    if (error != cudaSuccess) return {{}, {}, failure("scores and counts could not be fetched", error)};
  }
  return choose(shape, {scores.data(), image_index.data(), image_of.data(), keep_counts.data()});
}

std::string gather_cuda(const Shape& shape, const Choice& choice, std::size_t element_bytes, const Tensors& tensors,
                        void* stream) {
  int device = 0;
  int processors = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return failure("no CUDA device", error);
  if (const cudaError_t error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
      error != cudaSuccess) {
    return failure("the device does not say how many processors it has", error);
  }
  const std::size_t row_bytes = static_cast<std::size_t>(shape.hidden) * element_bytes;
  if (row_bytes > kMaxRowBytes) {
    return "TokenGather: too large for one launch; got: bytes of a row = " + std::to_string(row_bytes) +
           "; wanted: at most 2^30";
  }
  const Call call{shape, choice, tensors, nullptr, row_bytes, processors, static_cast<cudaStream_t>(stream)};
  const cudaError_t error = shape.tokens == 0 ? launch_widest(call) : launch_chosen(call);
  return error == cudaSuccess ? "" : failure("the rows could not be moved", error);
}

}  // namespace ar::gather
