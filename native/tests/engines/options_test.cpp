// Options of an engine, and what the NVIDIA driver tells.
#include "engines/options.hpp"

#include <gtest/gtest.h>

#include "engines/gpus.hpp"
#include "runtime/world.hpp"

namespace ar {
namespace {

EngineOptions on(const std::string& device) {
  EngineOptions options;
  options.device = device;
  return options;
}

TEST(Options, DevicesHaveAKindAndAnIndex) {
  EXPECT_TRUE(on("cpu").on_cpu());
  EXPECT_FALSE(on("cuda").on_cpu());
  EXPECT_EQ(on("cuda").device_index(), 0);
  EXPECT_EQ(on("cuda:12").device_index(), 12);
  for (const char* fine : {"cpu", "cuda", "cuda:0", "cuda:12"}) on(fine).check();
}

TEST(Options, ImpossibleOnesAreRefused) {
  for (const char* bad : {"", "tpu", "CPU", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "cuda:99999", "cuda:1 ", "cudaa"}) {
    EXPECT_EQ(test::status_of([&] { on(bad).check(); }), AR_INPUT_INVALID) << bad;
  }
  EngineOptions options;
  options.threads = -1;
  EXPECT_EQ(test::status_of([&] { options.check(); }), AR_INPUT_INVALID);
}

TEST(Options, ProvidersAreOfAGpu) {
  EngineOptions options = on("cuda:1");
  EXPECT_FALSE(options.on_tensorrt());
  options.provider = "tensorrt";
  options.check();
  EXPECT_TRUE(options.on_tensorrt());
  options.device = "cpu";
  EXPECT_EQ(test::status_of([&] { options.check(); }), AR_INPUT_INVALID);
  for (const char* bad : {"", "TensorRT", "rocm", "CUDAExecutionProvider"}) {
    options = on("cuda");
    options.provider = bad;
    EXPECT_EQ(test::status_of([&] { options.check(); }), AR_INPUT_INVALID) << bad;
  }
}

TEST(Options, ThreadsAreThoseAskedForOrAll) {
  EngineOptions options;
  EXPECT_GE(options.thread_count(), 1);
  options.threads = 3;
  EXPECT_EQ(options.thread_count(), 3);
}

class GpuFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("nvidia-" + std::to_string(std::random_device()()));
    for (const char* gpu : {"0000:01:00.0", "0000:02:00.0"}) {
      std::filesystem::create_directories(folder_ / "gpus" / gpu);
      std::ofstream(folder_ / "gpus" / gpu / "information") << "IRQ: 3\nModel: \t\t NVIDIA " << gpu << "  \nBus: x\n";
    }
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string driver(const std::string& version) {
    std::ofstream(folder_ / "version") << version << "\nGCC version:  gcc version 12.2.0\n";
    return read_gpu(0, folder_).driver;
  }
  std::filesystem::path folder_;
};

TEST_F(GpuFolder, NamesAndDriverAreRead) {
  EXPECT_EQ(driver("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22"), "550.54.14");
  EXPECT_EQ(driver("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build"), "580.65.06");
  EXPECT_EQ(driver("NVRM version: none"), "");
  EXPECT_EQ(read_gpu(1, folder_).name, "NVIDIA 0000:02:00.0");
}

TEST_F(GpuFolder, WhereTheDriverDoesNotTellTheIndexIsTheName) {
  EXPECT_EQ(read_gpu(0, folder_).name, "cuda:0");  // there is no version file yet
  driver("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14");
  EXPECT_EQ(read_gpu(7, folder_).name, "cuda:7");
  EXPECT_EQ(read_gpu(0, folder_ / "nowhere").name, "cuda:0");
}

}  // namespace
}  // namespace ar
