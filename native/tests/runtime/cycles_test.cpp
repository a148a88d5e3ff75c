// Loading and unloading a thousand times must leave no memory behind.
#include <gtest/gtest.h>
#include <malloc.h>
#include <unistd.h>

#include "runtime/runtime.hpp"
#include "world.hpp"

namespace ar {
namespace {

constexpr int kCycles = 1000;
constexpr int kWarmUp = 200;          // arenas and caches fill
constexpr int64_t kGrowth = 4 << 20;  // bytes; one leaked session of the tiny bundle, times 800, is far more

int64_t resident_bytes() {
  malloc_trim(0);
  int64_t pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

void cycle(int number, const std::vector<uint8_t>& pixels) {
  LoadOptions options;
  options.version = number % 2 == 0 ? "full" : "t2-l2";
  options.engine.threads = 1;
  Request request;
  request.images = {{pixels.data(), 9, 6, 0}};
  request.prompt = Rendered{"USER: <image>\nwhat is it? ASSISTANT:"};
  request.max_new_tokens = 3;
  const auto runtime = Runtime::load(test::bundle_path(), options);
  ASSERT_EQ(runtime->generate(request).token_ids.size(), 3u);
}

class Cycles : public test::OnBundle {};

TEST_F(Cycles, LeaveNoMemoryBehind) {
  const std::vector<uint8_t> pixels = test::image(9, 6);
  int64_t settled = 0;
  for (int number = 0; number < kCycles; ++number) {
    if (number == kWarmUp) settled = resident_bytes();
    cycle(number, pixels);
  }
  const int64_t growth = resident_bytes() - settled;
  RecordProperty("growth_bytes", std::to_string(growth));
  EXPECT_LT(growth, kGrowth);
}

}  // namespace
}  // namespace ar
