// Opening plans: what is refused before TensorRT sees it, what is loaded besides, and a machine without TensorRT.
#include "engines/tensorrt/backend.hpp"

#include <gtest/gtest.h>

#include "toy_plans.hpp"
#include "runtime/world.hpp"

namespace ar {
namespace {

namespace fs = std::filesystem;
namespace t = tensors;

const CudaGpu kGpu{"NVIDIA H100 80GB", 90, "CUDA 13.0"};

// A TensorRT that writes down what it is asked for.
class FakeTensorRt final : public TensorRt {
 public:
  std::string version() const override { return "10.16.1.11"; }
  std::shared_ptr<Device> device(int) override { return std::make_shared<test::HostDevice>(gpu); }
  void load_plugin(const fs::path& library) override { plugins.push_back(library); }
  std::unique_ptr<PlanEngine> read(const fs::path& plan, int device, bool host_code) override {
    read_plans.push_back({plan, device, host_code});
    const bool steps = plan.filename().string().rfind("decoder", 0) == 0;
    return std::make_unique<test::FakePlan>(steps ? test::toy_decoder() : test::toy_vision(), gpu);
  }

  struct Read {
    fs::path plan;
    int device;
    bool host_code;
  };
  std::shared_ptr<test::Gpu> gpu = std::make_shared<test::Gpu>();
  std::vector<fs::path> plugins;
  std::vector<Read> read_plans;
};

class Opening : public ::testing::Test {
 protected:
  ar_status open(const std::string& name, const std::string& device = "cpu") {
    EngineOptions options;
    options.device = device;
    options.log = [this](Level, const std::string& message) { said_ += message; };
    return test::status_of([&] { session_ = open_plan(library_, kGpu, "/bundle/graphs/" + name, options); }, &said_);
  }
  FakeTensorRt library_;
  std::shared_ptr<const Session> session_;
  std::string said_;
};

TEST_F(Opening, APlanIsReadForItsDevice) {
  ASSERT_EQ(open("vision-0123456789ab-trt10.16.1.11-sm90.plan", "cuda:2"), AR_OK) << said_;
  ASSERT_EQ(library_.read_plans.size(), 1u);
  EXPECT_EQ(library_.read_plans[0].plan, "/bundle/graphs/vision-0123456789ab-trt10.16.1.11-sm90.plan");
  EXPECT_EQ(library_.read_plans[0].device, 2);
  EXPECT_FALSE(library_.read_plans[0].host_code);
  EXPECT_EQ(library_.gpu->captures, 0);  // it is never bound
  EXPECT_EQ(session_->outputs(), std::vector<std::string>{t::kImageEmbeds});
  ASSERT_EQ(open("vision-0123456789ab-trt10.15-sm80-newer-ampere.plan"), AR_OK) << said_;
  EXPECT_EQ(library_.read_plans[1].device, 0);
  EXPECT_TRUE(library_.read_plans[1].host_code);
}

TEST_F(Opening, TheDecoderIsTriedForCapture) {
  ASSERT_EQ(open("decoder-0123456789ab-trt10.16-sm90.plan"), AR_OK) << said_;
  EXPECT_EQ(library_.gpu->captures, 1);
  EXPECT_EQ(said_, "");
  library_.gpu->refuses_capture = true;
  ASSERT_EQ(open("decoder-0123456789ab-trt10.16-sm90.plan"), AR_OK);
  EXPECT_NE(said_.find("one by one"), std::string::npos);
}

TEST_F(Opening, AForeignPlanIsRefusedBeforeTensorRtSeesIt) {
  const std::pair<const char*, const char*> cases[] = {
      {"decoder-0123456789ab-trt11.1.0.106-sm90.plan", "another TensorRT; where: decoder"},
      {"decoder-0123456789ab-trt10.15.1.29-sm90.plan", "pip install 'tensorrt==10.15.*'"},
      {"decoder-0123456789ab-trt10.16-sm80.plan", "got: SM 90 here; wanted: SM 80; remedy: build it again here"},
      {"decoder.plan", "nothing says what this plan was built with"},
  };
  for (const auto& [name, words] : cases) {
    EXPECT_EQ(open(name), AR_ENGINE_UNAVAILABLE) << name;
    EXPECT_NE(said_.find(words), std::string::npos) << said_;
  }
  EXPECT_TRUE(library_.read_plans.empty());
}

class Plugin : public Opening {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("allrounder-" + std::to_string(std::random_device()()));
    fs::create_directories(folder_);
    setenv("ALLROUNDER_NATIVE_LIBRARY_DIR", folder_.c_str(), 1);
  }
  void TearDown() override {
    unsetenv("ALLROUNDER_NATIVE_LIBRARY_DIR");
    fs::remove_all(folder_);
  }
  const std::string plan_ = "vision-0123456789ab-trt10.16-sm90-plugin.plan";
  fs::path folder_;
};

TEST_F(Plugin, IsLoadedForAPlanWhoseNameSaysSo) {
  std::ofstream(folder_ / "liballrounder_tensorrt_plugin.so") << "";
  ASSERT_EQ(open("vision-0123456789ab-trt10.16-sm90.plan"), AR_OK) << said_;
  EXPECT_TRUE(library_.plugins.empty());
  ASSERT_EQ(open(plan_), AR_OK) << said_;
  EXPECT_EQ(library_.plugins, std::vector<fs::path>{folder_ / "liballrounder_tensorrt_plugin.so"});
}

TEST_F(Plugin, ThatIsNotThereIsNamedWithTheRemedy) {
  EXPECT_EQ(open(plan_), AR_ENGINE_UNAVAILABLE);
  EXPECT_NE(said_.find("no liballrounder_tensorrt_plugin.so; where: " + folder_.string()), std::string::npos) << said_;
  EXPECT_NE(said_.find("-DALLROUNDER_TENSORRT=ON"), std::string::npos) << said_;
  EXPECT_TRUE(library_.read_plans.empty());
}

TEST(TensorRtBackend, RunsOnAGpuWhateverDeviceIsNamed) {
  EXPECT_FALSE(runs_on_cpu(kTensorRt, {}));
}

// A plan's bundle can be asked for on every machine; without library or GPU it is told why not, in words that help.
TEST(TensorRtBackend, AMachineWithoutItSaysWhy) {
  const std::optional<std::string> reason = why_not(kTensorRt);
  if (!reason) GTEST_SKIP() << "this machine has TensorRT and a GPU";
  EXPECT_NE(reason->find("; remedy: "), std::string::npos) << *reason;
  std::string message;
  EXPECT_EQ(test::status_of([] { backend(kTensorRt).machine({}); }, &message), AR_ENGINE_UNAVAILABLE);
  EXPECT_EQ(message, *reason);
  const auto open = [] { backend(kTensorRt).open_session("decoder-0-trt10.16-sm90.plan", {}, false); };
  EXPECT_EQ(test::status_of(open, &message), AR_ENGINE_UNAVAILABLE);
  EXPECT_EQ(message, *reason);
}

}  // namespace
}  // namespace ar
