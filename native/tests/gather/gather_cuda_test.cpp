// The CUDA kernel on a device, against the CPU kernel. Where there is no device: what the kernel says then.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "cases.hpp"
#include "gather/gather_cuda.hpp"

namespace ar::gather::testing {
namespace {

// Why no kernel can run here, empty if one can.
std::string why_no_device() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return devices > 0 ? "" : "the driver lists none";
}

#define AR_CUDA(call) ASSERT_EQ(cudaSuccess, call)

// Device memory of one tensor, `offset` bytes into an allocation, so that it can be as badly aligned as wanted.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::size_t bytes, std::size_t offset = 0) : offset_(offset) {
    EXPECT_EQ(cudaSuccess, cudaMalloc(&memory_, bytes + offset + 1));
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer() { cudaFree(memory_); }
  void* get() const { return static_cast<std::byte*>(memory_) + offset_; }

 private:
  void* memory_ = nullptr;
  std::size_t offset_;
};

template <typename Value>
std::size_t bytes_of(const std::vector<Value>& values) {
  return values.size() * sizeof(Value);
}

// The op's tensors on the device.
class OnDevice {
 public:
  OnDevice(const Case& c, const Inputs& in, std::size_t offset)
      : case_(c),
        hidden_(in.hidden.size(), offset),
        scores_(bytes_of(in.scores)),
        positions_(bytes_of(in.positions)),
        gathered_(Outputs(c).gathered.size(), offset),
        gathered_positions_(bytes_of(Outputs(c).positions)),
        keep_(bytes_of(Outputs(c).keep)) {
    write(in);
  }

  void write(const Inputs& in) {
    AR_CUDA(cudaMemcpy(hidden_.get(), in.hidden.data(), in.hidden.size(), cudaMemcpyHostToDevice));
    AR_CUDA(cudaMemcpy(scores_.get(), in.scores.data(), bytes_of(in.scores), cudaMemcpyHostToDevice));
    AR_CUDA(cudaMemcpy(positions_.get(), in.positions.data(), bytes_of(in.positions), cudaMemcpyHostToDevice));
  }

  std::string launch(cudaStream_t stream) const {
    const Tensors tensors{hidden_.get(),
                          static_cast<const float*>(scores_.get()),
                          static_cast<const std::int64_t*>(positions_.get()),
                          gathered_.get(),
                          static_cast<std::int64_t*>(gathered_positions_.get()),
                          static_cast<std::int64_t*>(keep_.get())};
    return gather_cuda(case_.shape, case_.element_bytes, tensors, stream);
  }

  Outputs read() const {
    Outputs out(case_);
    EXPECT_EQ(cudaSuccess, cudaDeviceSynchronize());
    const auto fetch = [](void* to, const DeviceBuffer& from, std::size_t bytes) {
      EXPECT_EQ(cudaSuccess, cudaMemcpy(to, from.get(), bytes, cudaMemcpyDeviceToHost));
    };
    fetch(out.gathered.data(), gathered_, out.gathered.size());
    fetch(out.positions.data(), gathered_positions_, bytes_of(out.positions));
    fetch(out.keep.data(), keep_, bytes_of(out.keep));
    return out;
  }

 private:
  Case case_;
  DeviceBuffer hidden_, scores_, positions_, gathered_, gathered_positions_, keep_;
};

Outputs on_cpu(const Case& c, const Inputs& in) {
  Outputs out(c);
  gather_cpu(c.shape, c.element_bytes, tensors(in, &out));
  return out;
}

void expect_cpu(const Case& c, std::size_t offset = 0) {
  const Inputs in = make_inputs(c);
  const OnDevice device(c, in, offset);
  ASSERT_EQ(device.launch(nullptr), "") << c;
  ASSERT_TRUE(device.read() == on_cpu(c, in)) << c << " offset=" << offset;
}

class GatherCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string reason = why_no_device();
    if (!reason.empty()) GTEST_SKIP() << "no CUDA device: " << reason;
  }
};

TEST_F(GatherCuda, EqualsTheCpuBitForBit) {
  for (const Case& c : all_cases(kMaxTokens)) expect_cpu(c);
}

TEST_F(GatherCuda, EqualsTheCpuWhateverTheAlignment) {
  for (const std::size_t offset : {2, 4, 8, 16}) {
    for (const std::int64_t hidden : {1, 8, 512}) expect_cpu({{3, 50, 17, hidden}, 2, Scores::kTied, 5}, offset);
  }
}

TEST_F(GatherCuda, LargeEqualsTheCpu) {
  expect_cpu({{1, 576, 144, 4096}, 2, Scores::kRandom, 1});
  expect_cpu({{8, 2880, 640, 4096}, 2, Scores::kRandom, 2});
  expect_cpu({{1, 100000, 30000, 8}, 4, Scores::kTied, 3});
  expect_cpu({{5000, 16, 4, 8}, 2, Scores::kOdd, 4});
}

TEST_F(GatherCuda, ReplaysOfACapturedGraphReadTheScoresOfTheirMoment) {
  Case c{{2, 576, 144, 64}, 2, Scores::kRandom, 20};
  OnDevice device(c, make_inputs(c), 0);
  cudaStream_t stream = nullptr;
  AR_CUDA(cudaStreamCreate(&stream));
  cudaGraph_t graph = nullptr;
  AR_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  ASSERT_EQ(device.launch(stream), "");
  AR_CUDA(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t replayed = nullptr;
  AR_CUDA(cudaGraphInstantiate(&replayed, graph, 0));
  for (const Scores scores : kAllScores) {
    c.scores = scores;
    ++c.seed;
    const Inputs in = make_inputs(c);
    device.write(in);
    AR_CUDA(cudaGraphLaunch(replayed, stream));
    AR_CUDA(cudaStreamSynchronize(stream));
    ASSERT_TRUE(device.read() == on_cpu(c, in)) << c;
  }
  AR_CUDA(cudaGraphExecDestroy(replayed));
  AR_CUDA(cudaGraphDestroy(graph));
  AR_CUDA(cudaStreamDestroy(stream));
}

TEST_F(GatherCuda, RefusesRowsThatAreTooLong) {
  const Tensors none{};
  const std::string error = gather_cuda({1, 2, 1, std::int64_t{1} << 30}, 2, none, nullptr);
  EXPECT_NE(error.find("too large for one launch"), std::string::npos) << error;
}

TEST(GatherCudaAbsent, WithoutADeviceItSaysSo) {
  if (why_no_device().empty()) GTEST_SKIP() << "there is a CUDA device";
  const Tensors none{};
  const std::string error = gather_cuda({1, 2, 1, 4}, 2, none, nullptr);
  EXPECT_EQ(error.find("TokenGather: no CUDA device; got: "), 0u) << error;
  EXPECT_EQ(gather_cuda({0, 2, 1, 4}, 2, none, nullptr), "");  // nothing is to be done
}

}  // namespace
}  // namespace ar::gather::testing
