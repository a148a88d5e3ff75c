// The stopwatch on toy sessions: turns, warm-up, rounds, limits.
#include "runtime/measure.hpp"

#include <gtest/gtest.h>

#include "fake_sessions.hpp"
#include "runtime/memory.hpp"
#include "world.hpp"

namespace ar {
namespace {

// An engine that writes down its turns.
Engine told(std::vector<int>* turns, int name) {
  Sessions sessions = test::fake_sessions();
  const auto preprocess = sessions.preprocess;
  sessions.preprocess =
      std::make_shared<test::FakeSession>(preprocess->inputs(), preprocess->outputs(), [=](const Feeds& feeds) {
        turns->push_back(name);
        return preprocess->run(feeds, {});
      });
  return {test::fake_entry(), test::fake_facts(), sessions};
}

TEST(Measure, TheWorkloadIsWithinTheLimits) {
  const Workload workload = default_workload(test::fake_engine());
  EXPECT_EQ(workload.text_tokens, 16);
  EXPECT_EQ(workload.new_tokens, 8);
  EXPECT_EQ(workload.batch, 1);
  EXPECT_EQ(workload.threads, 1);
  EXPECT_EQ(workload.image_size, 4);
}

TEST(Measure, EnginesTakeTurnsAndTheWarmUpIsNotCounted) {
  std::vector<int> turns;
  std::vector<Engine> engines;
  engines.push_back(told(&turns, 1));
  engines.push_back(told(&turns, 2));
  std::vector<int64_t> steps;
  const auto progress = [&](const std::string&, int64_t done, int64_t total) {
    steps.push_back(done);
    EXPECT_EQ(total, 5);
  };
  const std::vector<Samples> samples = sample_latency(engines, default_workload(engines[0]), {3, {}}, progress);
  EXPECT_EQ(turns, (std::vector<int>{1, 2, 1, 2, 1, 2, 1, 2, 1, 2}));
  ASSERT_EQ(samples.size(), 2u);
  EXPECT_EQ(samples[1].ttft.size(), 3u);
  EXPECT_EQ(samples[1].tpot.size(), 3u);
  EXPECT_EQ(steps, (std::vector<int64_t>{1, 2, 3, 4, 5}));
}

TEST(Measure, EndsEarlyWithAtLeastOneRound) {
  std::vector<Engine> engines;
  engines.push_back(test::fake_engine());
  const std::vector<Samples> samples = sample_latency(engines, default_workload(engines[0]), {10'000, 0.0});
  EXPECT_EQ(samples[0].ttft.size(), 1u);
}

TEST(Measure, ImpossibleWorkloadsAreRefused) {
  std::vector<Engine> engines;
  engines.push_back(test::fake_engine());
  const auto refused = [&](const std::function<void(Workload&)>& change) {
    Workload workload = default_workload(engines[0]);
    change(workload);
    return test::status_of([&] { sample_latency(engines, workload, {1, {}}); });
  };
  EXPECT_EQ(refused([](Workload&) {}), AR_OK);
  EXPECT_EQ(refused([](Workload& w) { w.text_tokens = 17; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Workload& w) { w.text_tokens = 1; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Workload& w) { w.new_tokens = 1; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Workload& w) { w.new_tokens = 9; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Workload& w) { w.batch = 2; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Workload& w) { w.threads = 2; }), AR_INPUT_INVALID);
  EXPECT_EQ(refused([](Workload& w) { w.image_size = int64_t{1} << 40; }), AR_INPUT_INVALID);
}

TEST(Memory, CountsCopiesByModeAndPrecision) {
  Manifest manifest;
  manifest.files["graphs/weights/host-fp32-0a.bin"] = {"", 1000};
  manifest.files["graphs/weights/host-fp16-0a.bin"] = {"", 500};
  manifest.files["graphs/decode.onnx"] = {"", 7};
  Entry half = test::fake_entry();
  half.precision = "fp16";
  EngineOptions shared, cuda;
  shared.weights = Weights::kShared;
  cuda.device = "cuda";
  EXPECT_EQ(needed_bytes(manifest, {test::fake_entry(), test::fake_entry()}, {}), 4000);
  EXPECT_EQ(needed_bytes(manifest, {test::fake_entry()}, shared), 0);
  EXPECT_EQ(needed_bytes(manifest, {half}, {}), 2000);
  EXPECT_EQ(needed_bytes(manifest, {half}, shared), 2000);
  EXPECT_EQ(needed_bytes(manifest, {half}, cuda), 1000);
}

TEST(Memory, ReadsWhatTheSystemSays) {
  const auto file = std::filesystem::temp_directory_path() / ("meminfo-" + std::to_string(std::random_device()()));
  std::ofstream(file) << "MemTotal:       100 kB\nMemFree:         50 kB\nMemAvailable:    70 kB\n";
  EXPECT_EQ(available_bytes(file), 70 * 1024);
  std::ofstream(file) << "nothing of the kind";
  EXPECT_EQ(available_bytes(file), std::nullopt);
  std::filesystem::remove(file);
  EXPECT_EQ(available_bytes(file), std::nullopt);
}

}  // namespace
}  // namespace ar
