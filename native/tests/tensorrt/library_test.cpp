// The adapter of TensorRT and CUDA with a libnvinfer that is made up: every call that the runtime makes, by the tables
// of functions of these headers. Run by compile_check.sh; it cannot show that TensorRT does the same.
#include "engines/tensorrt/library.hpp"

#include <NvInferVersion.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>

#include "cuda_double.hpp"
#include "engines/tensorrt/backend.hpp"
#include "runtime/world.hpp"

namespace ar {
namespace {

namespace fs = std::filesystem;

const std::string kVersion = NV_TENSORRT_MAJOR == 10 ? "10.16.1.11" : std::to_string(NV_TENSORRT_MAJOR) + ".1.0.106";
const CudaGpu kGpu{"a GPU", 90, "CUDA 13.0"};

class Library : public ::testing::Test {
 protected:
  Library() {
    setenv("ALLROUNDER_TENSORRT_LIBRARY", NVINFER_DOUBLE, 1);
    setenv("NVINFER_DOUBLE_VERSION", kVersion.c_str(), 1);
    folder_ = fs::temp_directory_path() / ("allrounder-" + std::to_string(std::random_device()()));
    fs::create_directories(folder_);
  }
  ~Library() override {
    testing::cuda_double() = {};
    fs::remove_all(folder_);
  }
  fs::path plan(const std::string& content) const {
    const fs::path path = folder_ / ("decode-0-trt" + kVersion + "-sm90.plan");
    std::ofstream(path) << content;
    return path;
  }
  std::shared_ptr<const Session> open(const std::string& content = "a plan") {
    EngineOptions options;
    options.log = [this](Level, const std::string& message) { log_ += message; };
    return open_plan(tensorrt(), kGpu, plan(content), options);
  }
  std::string refusal(const std::function<void()>& work) const {
    std::string message;
    EXPECT_EQ(test::status_of(work, &message), AR_BACKEND_ERROR);
    return message;
  }
  fs::path folder_;
  std::string log_;
};

struct Step {
  explicit Step(const Session& session, int64_t count = 1) {
    const std::vector<int64_t> zeros(static_cast<std::size_t>(count));  // also as float
    ids = session.cell({Kind::kInt64, {1, count}, zeros.data()});
    logits = session.cell({Kind::kFloat32, {1, count}, zeros.data()});
    cache = session.cell({Kind::kFloat32, {1}, zeros.data()});
    bound = session.bind({{"input_ids", ids}, {"cache_key.0", cache}},
                         {{"logits", logits}, {"cache_key_out.0", cache}});
  }
  float run(int64_t id) const {
    std::memcpy(ids->values(), &id, sizeof id);
    bound->run();
    return *static_cast<const float*>(logits->data());
  }
  std::shared_ptr<Cell> ids, logits, cache;
  std::unique_ptr<Bound> bound;
};

TEST_F(Library, TellsItsVersion) { EXPECT_EQ(tensorrt().version(), kVersion); }

TEST_F(Library, StepsAreDoneThenCapturedThenLaunched) {
  {
    const auto session = open();
    EXPECT_EQ(log_, "");
    EXPECT_EQ(session->inputs(), (std::vector<std::string>{"input_ids", "cache_key.0"}));
    const Step step(*session);
    for (int64_t id = 0; id < 4; ++id) EXPECT_EQ(step.run(10 * id), static_cast<float>(11 * id));
    EXPECT_EQ(testing::cuda_double().launches, 3);
    const Step wide(*session, 5);
    EXPECT_EQ(wide.run(7), 7.0f);
    EXPECT_EQ(static_cast<const float*>(wide.logits->data())[4], 0.0f);
    EXPECT_NE(refusal([&] { Step(*session, 9); }).find("got: [1, 9]; wanted: [1, 1] to [1, 8]"), std::string::npos);
  }
  const testing::CudaDouble& left = testing::cuda_double();
  EXPECT_EQ(left.blocks + left.streams + left.graphs + left.executables, 0);
}

TEST_F(Library, WhatCudaDoesNotCaptureIsSaid) {
  testing::cuda_double().refuses_capture = true;
  const auto session = open();
  EXPECT_NE(log_.find("one by one"), std::string::npos);
  EXPECT_NE(log_.find("cudaStreamBeginCapture; got: cudaErrorOfTheDouble"), std::string::npos) << log_;
  const Step step(*session);
  for (int64_t id = 0; id < 3; ++id) EXPECT_EQ(step.run(10 * id), static_cast<float>(11 * id));
}

TEST_F(Library, WithoutMemoryItIsCudaThatFails) {
  const auto session = open();
  testing::cuda_double().has_memory = false;
  EXPECT_NE(refusal([&] { Step step(*session); }).find("CUDA failed; where: cudaMalloc"), std::string::npos);
}

TEST_F(Library, ADamagedPlanIsRefusedInItsWords) {
  const std::string said = refusal([&] { open("no plan"); });
  EXPECT_NE(said.find("TensorRT refuses a plan; where: " + folder_.string()), std::string::npos) << said;
  EXPECT_NE(said.find("got: stdArchiveMagic does not match (tensorrt " + kVersion + ")"), std::string::npos) << said;
  EXPECT_NE(refusal([&] { open(""); }).find("a plan cannot be read"), std::string::npos);
}

TEST_F(Library, APlanWithTensorsInTheHostsMemoryIsRefused) {
  EXPECT_NE(refusal([&] { open("a plan on the host"); }).find(", input_ids"), std::string::npos);
}

TEST_F(Library, PluginsAreLoadedOrRefused) {
  tensorrt().load_plugin("/nowhere/plugin.so");
  tensorrt().load_plugin("/nowhere/plugin.so");
  EXPECT_NE(refusal([] { tensorrt().load_plugin("/refused.so"); }).find("got: TensorRT gives no reason"),
            std::string::npos);
}

// In processes of their own, as a library that is open stays.
class LibraryDeath : public Library {
 protected:
  LibraryDeath() { ::testing::FLAGS_gtest_death_test_style = "threadsafe"; }
  static void open_and_tell(const char* library, const char* version) {
    setenv("ALLROUNDER_TENSORRT_LIBRARY", library, 1);
    setenv("NVINFER_DOUBLE_VERSION", version, 1);
    std::string message;
    const ar_status status = test::status_of([] { tensorrt(); }, &message);
    std::fprintf(stderr, "%s\n", message.c_str());
    std::_Exit(status);
  }
};

TEST_F(LibraryDeath, WhatIsNoTensorRtOfOursIsNamedWithTheRemedy) {
  const auto refused = ::testing::ExitedWithCode(AR_ENGINE_UNAVAILABLE);
  EXPECT_EXIT(open_and_tell("/nowhere/libnvinfer.so", ""), refused, "/nowhere/libnvinfer.so.*remedy: install TensorRT");
  EXPECT_EXIT(open_and_tell(SOME_LIBRARY, ""), refused, "not TensorRT, or too old.*no getInferLibMajorVersion");
  EXPECT_EXIT(open_and_tell(NVINFER_DOUBLE, "10.14.1.48"), refused, "too old; got: tensorrt 10.14.1.48.*10.15 or");
  EXPECT_EXIT(open_and_tell(NVINFER_DOUBLE, "12.0.0.1"), refused, "another major version.*TensorRT 12.0.0.1");
}

}  // namespace
}  // namespace ar
