// The gather's CUDA kernel on a device: time, and share of the memory bandwidth.
//
//   native_gather            (built with native/, -DALLROUNDER_CUDA=ON; native/tests/gather/run_on_gpu.sh runs it)
//
// What it is: for each shape, a CUDA graph of launches over more inputs than the device's cache holds, replayed; beside
// it plain copies of as many bytes, in the same way. The last line is one JSON object. Without a device it says so and
// ends with 77, which test runners take for a skip.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "gather/gather.hpp"
#include "gather/gather_cuda.hpp"

namespace {

using ar::gather::Shape;
using ar::gather::Tensors;

constexpr std::size_t kElementBytes = 2;  // float16
constexpr int kReplays = 50;
constexpr int kSkipped = 77;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

template <typename Value>
Value* device_memory(std::size_t count) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, std::max<std::size_t>(count, 1) * sizeof(Value)), "cudaMalloc");
  return static_cast<Value*>(memory);
}

// One set of inputs and outputs. The process ends before they are freed.
Tensors make_tensors(const Shape& shape, unsigned seed) {
  const auto in = static_cast<std::size_t>(shape.batch * shape.tokens);
  const auto out = static_cast<std::size_t>(shape.batch * shape.keep);
  const std::size_t row_bytes = static_cast<std::size_t>(shape.hidden) * kElementBytes;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> scores(in);
  std::generate(scores.begin(), scores.end(), [&] { return normal(random); });
  auto* device_scores = device_memory<float>(in);
  check(cudaMemcpy(device_scores, scores.data(), in * sizeof(float), cudaMemcpyHostToDevice), "cudaMemcpy");
  auto* hidden = device_memory<std::byte>(in * row_bytes);
  auto* positions = device_memory<std::int64_t>(in);
  check(cudaMemset(hidden, 1, in * row_bytes), "cudaMemset");
  check(cudaMemset(positions, 0, in * sizeof(std::int64_t)), "cudaMemset");
  return {hidden, device_scores, positions, device_memory<std::byte>(out * row_bytes), device_memory<std::int64_t>(out),
          device_memory<std::int64_t>(out)};
}

// Bytes that the op has to move: kept rows in and out, all scores in, kept positions in and out, indices out.
std::size_t moved_bytes(const Shape& shape) {
  const auto kept = static_cast<std::size_t>(shape.batch * shape.keep);
  return kept * static_cast<std::size_t>(shape.hidden) * kElementBytes * 2 +
         static_cast<std::size_t>(shape.batch * shape.tokens) * sizeof(float) + kept * 3 * sizeof(std::int64_t);
}

// Captures `launches` calls in one graph, replays it, and returns the median time of one call in microseconds.
double median_us(int launches, const std::function<void(int, cudaStream_t)>& launch) {
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replayed = nullptr;
  cudaEvent_t start = nullptr;
  cudaEvent_t stop = nullptr;
  check(cudaStreamCreate(&stream), "cudaStreamCreate");
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
  for (int i = 0; i < launches; ++i) launch(i, stream);
  check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&replayed, graph, 0), "cudaGraphInstantiate");
  check(cudaEventCreate(&start), "cudaEventCreate");
  check(cudaEventCreate(&stop), "cudaEventCreate");
  std::vector<double> times;
  for (int i = 0; i < kReplays + 5; ++i) {  // the first five warm up
    check(cudaEventRecord(start, stream), "cudaEventRecord");
    check(cudaGraphLaunch(replayed, stream), "cudaGraphLaunch");
    check(cudaEventRecord(stop, stream), "cudaEventRecord");
    check(cudaEventSynchronize(stop), "cudaEventSynchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start, stop), "cudaEventElapsedTime");
    if (i >= 5) times.push_back(static_cast<double>(ms) * 1000.0 / launches);
  }
  std::nth_element(times.begin(), times.begin() + kReplays / 2, times.end());
  return times[kReplays / 2];
}

int attribute(cudaDeviceAttr which) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, 0), "cudaDeviceGetAttribute");
  return value;
}

// What the memory could do by its clock and width, in GB/s: two transfers a clock.
double peak_gbs() {
  return 2.0 * attribute(cudaDevAttrMemoryClockRate) * (attribute(cudaDevAttrGlobalMemoryBusWidth) / 8.0) / 1e6;
}

std::string measure(const Shape& shape) {
  const std::size_t bytes = moved_bytes(shape);
  const auto cache = static_cast<std::size_t>(attribute(cudaDevAttrL2CacheSize));
  const int sets = static_cast<int>(std::clamp<std::size_t>(4 * cache / bytes + 1, 4, 256));
  std::vector<Tensors> tensors;
  for (int i = 0; i < sets; ++i) tensors.push_back(make_tensors(shape, static_cast<unsigned>(i)));
  const double gather_us = median_us(sets, [&](int i, cudaStream_t stream) {
    const std::string error =
        ar::gather::gather_cuda(shape, kElementBytes, tensors[static_cast<std::size_t>(i)], stream);
    if (!error.empty()) {
      std::fprintf(stderr, "%s\n", error.c_str());
      std::exit(1);
    }
  });
  const std::size_t rows = static_cast<std::size_t>(shape.batch * shape.keep * shape.hidden) * kElementBytes;
  const double copy_us = median_us(sets, [&](int i, cudaStream_t stream) {
    const Tensors& each = tensors[static_cast<std::size_t>(i)];
    check(cudaMemcpyAsync(each.gathered, each.hidden, rows, cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync");
  });
  const double gbs = static_cast<double>(bytes) / gather_us / 1e3;
  const double share = gbs / peak_gbs();
  std::printf("[%d,%d,%d] k=%d fp16: %.2f us, %.0f GB/s, %.0f %% of the peak; a plain copy of the rows: %.2f us\n",
              static_cast<int>(shape.batch), static_cast<int>(shape.tokens), static_cast<int>(shape.hidden),
              static_cast<int>(shape.keep), gather_us, gbs, 100 * share, copy_us);
  char json[256];
  std::snprintf(json, sizeof json,
                "{\"shape\": [%d, %d, %d], \"k\": %d, \"us\": %.3f, \"gbs\": %.1f, \"share_of_peak\": %.4f, "
                "\"copy_us\": %.3f}",
                static_cast<int>(shape.batch), static_cast<int>(shape.tokens), static_cast<int>(shape.hidden),
                static_cast<int>(shape.keep), gather_us, gbs, share, copy_us);
  return json;
}

}  // namespace

int main() {
  int devices = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&devices); error != cudaSuccess || devices == 0) {
    std::printf("no CUDA device: %s\n", error == cudaSuccess ? "the driver lists none" : cudaGetErrorString(error));
    return kSkipped;
  }
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  std::string results;
  for (const Shape& shape : {Shape{1, 576, 144, 4096}, Shape{8, 2880, 640, 4096}}) {
    results += (results.empty() ? "" : ", ") + measure(shape);
  }
  std::printf("{\"benchmark\": \"native_gather\", \"device\": \"%s\", \"peak_gbs\": %.0f, \"results\": [%s]}\n",
              properties.name, peak_gbs(), results.c_str());
  return 0;
}
