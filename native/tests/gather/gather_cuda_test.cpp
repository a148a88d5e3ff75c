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

// A list on the device.
template <typename Value>
class DeviceList : public DeviceBuffer {
 public:
  explicit DeviceList(const std::vector<Value>& values, std::size_t offset = 0) : DeviceBuffer(bytes_of(values), offset) {
    write(values);
  }
  void write(const std::vector<Value>& values) const {
    AR_CUDA(cudaMemcpy(get(), values.data(), bytes_of(values), cudaMemcpyHostToDevice));
  }
  void read(std::vector<Value>* values) const {
    AR_CUDA(cudaMemcpy(values->data(), get(), bytes_of(*values), cudaMemcpyDeviceToHost));
  }
  Value* data() const { return static_cast<Value*>(get()); }
};

// The op's tensors on the device.
class OnDevice {
 public:
  OnDevice(const Case& c, const Inputs& in, std::size_t offset)
      : case_(c),
        out_(room(c, std::accumulate(c.keep_counts.begin(), c.keep_counts.end(), std::int64_t{0}))),
        hidden_(in.hidden, offset),
        position_ids_(in.position_ids),
        scores_(in.scores),
        image_index_(in.image_index),
        image_of_(in.image_of),
        keep_counts_(in.keep_counts),
        gathered_(out_.gathered, offset),
        gathered_position_ids_(out_.position_ids),
        keep_(out_.keep) {}

  void write(const Inputs& in) const {
    hidden_.write(in.hidden);
    position_ids_.write(in.position_ids);
  }

  std::string launch(cudaStream_t stream) const {
    const Choice choice = choose_cuda(
        case_.shape(), {scores_.data(), image_index_.data(), image_of_.data(), keep_counts_.data()}, stream);
    if (!choice.error.empty()) return choice.error;
    const Tensors tensors{hidden_.get(), position_ids_.data(), gathered_.get(), gathered_position_ids_.data(),
                          keep_.data()};
    return gather_cuda(case_.shape(), choice, case_.element_bytes, tensors, stream);
  }

  Outputs read() const {
    Outputs out = out_;
    EXPECT_EQ(cudaSuccess, cudaDeviceSynchronize());
    gathered_.read(&out.gathered);
    gathered_position_ids_.read(&out.position_ids);
    keep_.read(&out.keep);
    return out;
  }

 private:
  Case case_;
  Outputs out_;
  DeviceList<std::byte> hidden_;
  DeviceList<std::int64_t> position_ids_;
  DeviceList<float> scores_;
  DeviceList<std::int64_t> image_index_, image_of_, keep_counts_;
  DeviceList<std::byte> gathered_;
  DeviceList<std::int64_t> gathered_position_ids_, keep_;
};

void expect_reference(const Case& c, std::size_t offset = 0) {
  const Inputs in = make_inputs(c);
  const OnDevice device(c, in, offset);
  ASSERT_EQ(device.launch(nullptr), "") << c;
  ASSERT_TRUE(device.read() == reference(c, in)) << c << " offset=" << offset;
}

class GatherCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string reason = why_no_device();
    if (!reason.empty()) GTEST_SKIP() << "no CUDA device: " << reason;
  }
};

TEST_F(GatherCuda, EqualsTheReferenceBitForBit) {
  for (const Case& c : all_cases(kMaxRows)) expect_reference(c);
}

TEST_F(GatherCuda, EqualsTheReferenceWhateverTheAlignment) {
  for (const std::size_t offset : {2, 4, 8, 16}) {
    for (const std::int64_t hidden : {1, 8, 512}) {
      expect_reference({{50, 20}, {17, 20}, 6, hidden, 2, Scores::kTied, 5, 1, 3}, offset);
    }
  }
}

TEST_F(GatherCuda, LargeEqualsTheReference) {
  expect_reference({{576}, {144}, 64, 4096, 2, Scores::kRandom, 1});
  expect_reference({{2880, 2880}, {640, 640}, 100, 4096, 2, Scores::kRandom, 2, 1, 3});
  expect_reference({{100000}, {30000}, 9, 8, 4, Scores::kTied, 3});
  expect_reference({{}, {}, 1, 4096, 2, Scores::kRandom, 4, 64, 3});
}

TEST_F(GatherCuda, WrongCountsAreNamed) {
  const Case c{{5}, {6}, 3};
  const OnDevice device({{5}, {5}, 3}, make_inputs(c), 0);
  const std::string error = device.launch(nullptr);
  EXPECT_NE(error.find("keep_counts[0] = 6; wanted: 0 to 5"), std::string::npos) << error;
}

TEST_F(GatherCuda, NewTokensMayBeCapturedInAGraph) {
  Case c{{}, {}, 1, 64, 2, Scores::kRandom, 20, 8, 3};
  OnDevice device(c, make_inputs(c), 0);
  cudaStream_t stream = nullptr;
  AR_CUDA(cudaStreamCreate(&stream));
  cudaGraph_t graph = nullptr;
  AR_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  ASSERT_EQ(device.launch(stream), "");
  AR_CUDA(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t replayed = nullptr;
  AR_CUDA(cudaGraphInstantiate(&replayed, graph, 0));
  for (c.seed = 21; c.seed < 24; ++c.seed) {
    const Inputs in = make_inputs(c);
    device.write(in);
    AR_CUDA(cudaGraphLaunch(replayed, stream));
    AR_CUDA(cudaStreamSynchronize(stream));
    ASSERT_TRUE(device.read() == reference(c, in)) << c;
  }
  AR_CUDA(cudaGraphExecDestroy(replayed));
  AR_CUDA(cudaGraphDestroy(graph));
  AR_CUDA(cudaStreamDestroy(stream));
}

TEST_F(GatherCuda, RefusesRowsThatAreTooLong) {
  const Case c{{}, {}, 1, std::int64_t{1} << 30, 2};
  const std::string error = gather_cuda(c.shape(), choose_first(c.shape(), c.shape().tokens), c.element_bytes, {}, nullptr);
  EXPECT_NE(error.find("too large for one launch"), std::string::npos) << error;
}

TEST(GatherCudaAbsent, WithoutADeviceItSaysSo) {
  if (why_no_device().empty()) GTEST_SKIP() << "there is a CUDA device";
  const Case c{{2}, {1}};
  const std::string error = gather_cuda(c.shape(), choose_first(c.shape(), c.shape().tokens), c.element_bytes, {}, nullptr);
  EXPECT_EQ(error.find("TokenGather: no CUDA device; got: "), 0u) << error;
  const Inputs in = make_inputs(c);
  EXPECT_EQ(choose_cuda(c.shape(), in.candidates(), nullptr).error.find("TokenGather: scores and counts could not be "
                                                                       "fetched; got: "),
            0u);
}

}  // namespace
}  // namespace ar::gather::testing
