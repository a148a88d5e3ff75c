// The gather's CUDA kernel on a device: time, and share of the memory bandwidth.
//
//   native_gather            (built with native/, -DALLROUNDER_CUDA=ON; native/tests/gather/run_on_gpu.sh runs it)
//
// What it is: for each prompt, calls over more inputs than the device's cache holds, the choice on the CPU among
// them; beside it plain copies of as many bytes, in the same way. The last line is one JSON object. Without a device it
// says so and ends with 77, which test runners take for a skip.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "gather/gather.hpp"
#include "gather/gather_cuda.hpp"

namespace {

using ar::gather::Choice;
using ar::gather::Shape;
using ar::gather::Tensors;

constexpr std::size_t kElementBytes = 2;  // float16
constexpr int kRepeats = 50;
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

// A prompt of one image.
struct Prompt {
  std::int64_t tokens, keep, text, hidden;
  Shape shape() const { return {1, tokens + text, hidden, 1, tokens, 1}; }
};

// One set of inputs and outputs: the candidates in main memory, as ONNX Runtime hands them over. The process ends before
// the device's are freed.
struct Set {
  std::vector<float> scores;
  std::vector<std::int64_t> image_index, image_of, keep_counts;
  Tensors tensors;

  Set(const Prompt& prompt, unsigned seed)
      : scores(static_cast<std::size_t>(prompt.tokens)), image_index(scores.size()), image_of(scores.size(), 0),
        keep_counts{prompt.keep} {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::generate(scores.begin(), scores.end(), [&] { return normal(random); });
    std::iota(image_index.begin(), image_index.end(), prompt.text / 2);
    const auto in = static_cast<std::size_t>(prompt.shape().rows);
    const auto out = static_cast<std::size_t>(prompt.text + prompt.keep);
    const std::size_t row_bytes = static_cast<std::size_t>(prompt.hidden) * kElementBytes;
    auto* hidden = device_memory<std::byte>(in * row_bytes);
    auto* position_ids = device_memory<std::int64_t>(in);
    check(cudaMemset(hidden, 1, in * row_bytes), "cudaMemset");
    check(cudaMemset(position_ids, 0, in * sizeof(std::int64_t)), "cudaMemset");
    tensors = {hidden, position_ids, device_memory<std::byte>(out * row_bytes), device_memory<std::int64_t>(out),
               device_memory<std::int64_t>(static_cast<std::size_t>(prompt.keep))};
  }
};

void gather(const Prompt& prompt, const Set& set, cudaStream_t stream) {
  const Choice choice = ar::gather::choose(prompt.shape(), {set.scores.data(), set.image_index.data(),
                                                            set.image_of.data(), set.keep_counts.data()});
  const std::string error =
      choice.error.empty() ? ar::gather::gather_cuda(prompt.shape(), choice, kElementBytes, set.tensors, stream)
                           : choice.error;
  if (error.empty()) return;
  std::fprintf(stderr, "%s\n", error.c_str());
  std::exit(1);
}

// Bytes of hidden that the op has to move: rows that stay, in and out.
std::size_t moved_bytes(const Prompt& prompt) {
  return static_cast<std::size_t>((prompt.text + prompt.keep) * prompt.hidden) * kElementBytes * 2;
}

// Returns the median time of one of `calls` calls in microseconds, the work of the CPU between them included.
double median_us(int calls, const std::function<void(int, cudaStream_t)>& call) {
  cudaStream_t stream = nullptr;
  cudaEvent_t start = nullptr;
  cudaEvent_t stop = nullptr;
  check(cudaStreamCreate(&stream), "cudaStreamCreate");
  check(cudaEventCreate(&start), "cudaEventCreate");
  check(cudaEventCreate(&stop), "cudaEventCreate");
  std::vector<double> times;
  for (int i = 0; i < kRepeats + 5; ++i) {  // the first five warm up
    check(cudaEventRecord(start, stream), "cudaEventRecord");
    for (int each = 0; each < calls; ++each) call(each, stream);
    check(cudaEventRecord(stop, stream), "cudaEventRecord");
    check(cudaEventSynchronize(stop), "cudaEventSynchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start, stop), "cudaEventElapsedTime");
    if (i >= 5) times.push_back(static_cast<double>(ms) * 1000.0 / calls);
  }
  std::nth_element(times.begin(), times.begin() + kRepeats / 2, times.end());
  return times[kRepeats / 2];
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

std::string measure(const Prompt& prompt) {
  const std::size_t bytes = moved_bytes(prompt);
  const auto cache = static_cast<std::size_t>(attribute(cudaDevAttrL2CacheSize));
  const int count = static_cast<int>(std::clamp<std::size_t>(4 * cache / bytes + 1, 4, 256));
  std::vector<Set> sets;
  for (int i = 0; i < count; ++i) sets.emplace_back(prompt, static_cast<unsigned>(i));
  const auto set = [&sets](int i) -> const Set& { return sets[static_cast<std::size_t>(i)]; };
  const double gather_us = median_us(count, [&](int i, cudaStream_t stream) { gather(prompt, set(i), stream); });
  const double copy_us = median_us(count, [&](int i, cudaStream_t stream) {
    const Tensors& each = set(i).tensors;
    check(cudaMemcpyAsync(each.gathered, each.hidden, bytes / 2, cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync");
  });
  const double gbs = static_cast<double>(bytes) / gather_us / 1e3;
  const double share = gbs / peak_gbs();
  std::printf("%d of %d tokens, %d of text, H=%d, fp16: %.2f us, %.0f GB/s, %.0f %% of the peak; a plain copy of the "
              "rows: %.2f us\n",
              static_cast<int>(prompt.keep), static_cast<int>(prompt.tokens), static_cast<int>(prompt.text),
              static_cast<int>(prompt.hidden), gather_us, gbs, 100 * share, copy_us);
  char json[256];
  std::snprintf(json, sizeof json,
                "{\"tokens\": %d, \"keep\": %d, \"text\": %d, \"hidden\": %d, \"us\": %.3f, \"gbs\": %.1f, "
                "\"share_of_peak\": %.4f, \"copy_us\": %.3f}",
                static_cast<int>(prompt.tokens), static_cast<int>(prompt.keep), static_cast<int>(prompt.text),
                static_cast<int>(prompt.hidden), gather_us, gbs, share, copy_us);
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
  for (const Prompt& prompt : {Prompt{576, 144, 64, 4096}, Prompt{2880, 640, 64, 4096}}) {
    results += (results.empty() ? "" : ", ") + measure(prompt);
  }
  std::printf("{\"benchmark\": \"native_gather\", \"device\": \"%s\", \"peak_gbs\": %.0f, \"results\": [%s]}\n",
              properties.name, peak_gbs(), results.c_str());
  return 0;
}
