// The table of backends by name.
#include "engines/backend.hpp"

#include <gtest/gtest.h>

#include "runtime/world.hpp"

namespace ar {
namespace {

TEST(Backends, AreFoundByTheirNames) { EXPECT_STREQ(backend(kOnnxRuntime).name, kOnnxRuntime); }

TEST(Backends, OneThatIsNotThereIsRefusedByItsName) {
  for (const char* name : {"openvino-2", "tensorrt-llm", "", "Onnxruntime", "onnxruntime ", "\x1b[31m"}) {
    std::string message;
    EXPECT_EQ(test::status_of([&] { backend(name); }, &message), AR_ENGINE_UNAVAILABLE) << name;
    EXPECT_NE(message.find("got: " + quoted(name)), std::string::npos) << message;
    EXPECT_NE(message.find("wanted: one of onnxruntime"), std::string::npos) << message;
    EXPECT_EQ(why_not(name), message);
  }
}

TEST(Backends, OnTheCpuIsWhatNeedsNoGpuAndIsAskedFor) {
  EngineOptions cuda;
  cuda.device = "cuda";
  EXPECT_TRUE(runs_on_cpu(kOnnxRuntime, {}));
  EXPECT_FALSE(runs_on_cpu(kOnnxRuntime, cuda));
}

TEST(Backends, Bfloat16IsRefusedWhereABackendLacksItOnTheCpu) {
  Entry entry;
  entry.pruning.version = "full", entry.pruning.layer_policy = "static";
  entry.backend = kOnnxRuntime, entry.precision = "bf16";
  EngineOptions cuda;
  cuda.device = "cuda:1";
  check_precision(entry, cuda);
  std::string message;
  EXPECT_EQ(test::status_of([&] { check_precision(entry, {}); }, &message), AR_ENGINE_UNAVAILABLE);
  EXPECT_NE(message.find("full (onnxruntime, bf16, static, K=0)"), std::string::npos) << message;
  EXPECT_NE(message.find("a GPU (device \"cuda\")"), std::string::npos) << message;
  EXPECT_NE(why_not(entry, {}), std::nullopt);
  entry.backend = kTensorRt;  // its engines run on a GPU, whatever device is named
  check_precision(entry, {});
  entry.backend = kOnnxRuntime, entry.precision = "fp16";
  check_precision(entry, {});
}

}  // namespace
}  // namespace ar
