// The GPUs that the driver tells of.
#include "engines/gpus.hpp"

#include <gtest/gtest.h>

#include "runtime/world.hpp"

namespace ar {
namespace {

TEST(Gpus, AreWhatTheDriverSays) {
  const std::vector<CudaGpu> gpus = cuda_gpus(CUDA_DRIVER_DOUBLE);
  ASSERT_EQ(gpus.size(), 2u);
  EXPECT_EQ(gpus[0].name, "NVIDIA H100 80GB");
  EXPECT_EQ(gpus[0].sm, 90);
  EXPECT_EQ(gpus[1].name, "NVIDIA A10");
  EXPECT_EQ(gpus[1].sm, 86);
  EXPECT_EQ(gpus[1].driver, "CUDA 12.4");
  EXPECT_EQ(cuda_gpu(1, CUDA_DRIVER_DOUBLE).sm, 86);
}

TEST(Gpus, WithoutADriverThereAreNone) { EXPECT_TRUE(cuda_gpus("/nowhere/libcuda.so.1").empty()); }

TEST(Gpus, ALibraryThatIsNoDriverHasNone) { EXPECT_TRUE(cuda_gpus("libm.so.6").empty()); }

TEST(Gpus, OneThatIsNotThereIsNamedBesideThoseThatAre) {
  std::string message;
  EXPECT_EQ(test::status_of([] { cuda_gpu(2, CUDA_DRIVER_DOUBLE); }, &message), AR_ENGINE_UNAVAILABLE);
  EXPECT_NE(message.find("where: cuda:2; got: NVIDIA H100 80GB, NVIDIA A10"), std::string::npos) << message;
  EXPECT_EQ(test::status_of([] { cuda_gpu(0, "/nowhere/libcuda.so.1"); }, &message), AR_ENGINE_UNAVAILABLE);
  EXPECT_NE(message.find("no NVIDIA GPU, or no driver"), std::string::npos) << message;
}

}  // namespace
}  // namespace ar
