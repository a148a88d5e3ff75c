// The table of backends by name.
#include "runtime/backend.hpp"

#include <gtest/gtest.h>

#include "runtime/memory.hpp"
#include "world.hpp"

namespace ar {
namespace {

TEST(Backends, AreFoundByTheirNames) { EXPECT_STREQ(backend(kOnnxRuntime).name, kOnnxRuntime); }

TEST(Backends, OneThatIsNotThereIsRefusedByItsName) {
  for (const char* name : {"openvino", "tensorrt-llm", "", "Onnxruntime", "onnxruntime ", "\x1b[31m"}) {
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

}  // namespace
}  // namespace ar
