// Latencies of this machine: measured once, kept where Python keeps them, used by both.
#include "runtime/local_latency.hpp"

#include <gtest/gtest.h>

#include "runtime/backend.hpp"
#include "runtime/runtime.hpp"
#include "world.hpp"

namespace ar {
namespace {

namespace fs = std::filesystem;

Latency latency(double p50) {
  return {{p50, p50, p50}, {1, 2, 3}, {"a \"cpu\"", 2, 1, "onnxruntime 1", "", ""}, {9, 3, 1, 1, 4}};
}

TEST(Figures, AreReadAsTheyWereWritten) {
  const LocalFigures figures = {{"full (onnxruntime, fp32)", latency(0.1)}, {"odd \"label\"", latency(3.25)}};
  const LocalFigures read = decode_figures(encode_figures(figures), "here");
  ASSERT_EQ(read.size(), 2u);
  EXPECT_EQ(read.at("odd \"label\"").ttft_ms.p50, 3.25);
  EXPECT_EQ(read.at("full (onnxruntime, fp32)").machine, latency(0).machine);
  EXPECT_EQ(encode_figures(read), encode_figures(figures));
}

TEST(Figures, WhatIsNoneIsRefused) {
  for (const std::string& bad : {std::string(), std::string("no json"), std::string("[]"), std::string("{}"),
                                 std::string(R"({"latencies":[]})"), std::string(R"({"latencies":{"x":3}})"),
                                 std::string(R"({"latencies":{},"more":1})"), std::string(100'000, '[')}) {
    EXPECT_EQ(test::status_of([&] { decode_figures(bad, "here"); }), AR_BUNDLE_CORRUPT) << bad.substr(0, 40);
  }
}

TEST(Figures, TheFileIsNamedAsPythonNamesIt) {
  setenv("XDG_CACHE_HOME", "/cache", 1);
  EngineOptions options;
  options.weights = Weights::kShared;
  options.device = "cuda:1";
  const Machine machine{"Some CPU @ 2.0GHz", 8, 4, "onnxruntime 1.31.1", "", ""};
  // sha256 of ["aa","shared","cuda:1",[{"cpu":"Some CPU @ 2.0GHz","cores":8,"threads":4,"backend":"onnxruntime 1.31.1",
  // "gpu":"","driver":""}]], as msgspec writes it.
  EXPECT_EQ(
      latency_cache_file("aa", options, {machine}),
      fs::path("/cache/allrounder/latency/fa64b315858c3f47764baf0398893db2fe65a6a8febb318b259cb0d8b3e889f6.json"));
}

class Local : public test::OnBundle {
 protected:
  std::vector<Entry> measured(const std::function<void(LocalOptions&)>& change = {}) {
    LocalOptions options;
    options.engine.threads = 1;
    options.engine.log = [this](Level, const std::string& message) { log_ += message + "\n"; };
    if (change) change(options);
    const OpenBundle bundle = open_bundle(test::bundle_path());
    return with_local_latency(bundle, bundle.manifest.entries, options);
  }
  std::vector<fs::path> files() const {
    std::vector<fs::path> found;
    const fs::path folder = cache_ / "allrounder" / "latency";
    if (fs::exists(folder)) {
      for (const auto& each : fs::directory_iterator(folder)) found.push_back(each.path());
    }
    return found;
  }
  std::string log_;
};

TEST_F(Local, ForeignFiguresDoNotCountAndAreMeasuredOnce) {
  const std::vector<Entry> first = measured();
  EngineOptions options;
  options.threads = 1;
  for (const Entry& entry : first) {
    ASSERT_TRUE(entry.latency);
    EXPECT_EQ(entry.latency->machine, backend(kOnnxRuntime).machine(options));
    EXPECT_GT(entry.latency->tpot_ms.p50, 0);
  }
  EXPECT_NE(log_.find("were not measured on this machine"), std::string::npos);
  ASSERT_EQ(files().size(), 1u);
  log_.clear();
  const std::vector<Entry> again = measured();
  EXPECT_EQ(log_, "");
  for (std::size_t index = 0; index < first.size(); ++index) {
    EXPECT_EQ(encode_entry(again[index]), encode_entry(first[index]));
  }
}

TEST_F(Local, FiguresAreKeptApartByThreadsAndWeights) {
  measured();
  measured([](LocalOptions& o) { o.engine.threads = 2; });
  measured([](LocalOptions& o) { o.engine.weights = Weights::kShared; });
  measured([](LocalOptions& o) { o.with_text = false; });  // the same ones
  EXPECT_EQ(files().size(), 3u);
}

TEST_F(Local, ADamagedCacheIsToldAndReplaced) {
  measured();
  const fs::path file = files().at(0);
  for (const std::string& content : {std::string("no json"), std::string(R"({"latencies":{"x":3}})")}) {
    std::ofstream(file, std::ios::trunc) << content;
    log_.clear();
    for (const Entry& entry : measured()) EXPECT_TRUE(entry.latency);
    EXPECT_NE(log_.find("cannot be read"), std::string::npos);
    log_.clear();
    measured();
    EXPECT_EQ(log_, "");
  }
}

TEST_F(Local, WithoutAWritableCacheItSaysSo) {
  std::ofstream(cache_ / "file") << "";
  setenv("XDG_CACHE_HOME", (cache_ / "file").c_str(), 1);
  for (const Entry& entry : measured()) EXPECT_TRUE(entry.latency);
  EXPECT_NE(log_.find("could not be kept"), std::string::npos);
}

TEST_F(Local, WithoutTimeTheLargerEntriesStayUnmeasured) {
  const std::vector<Entry> entries = measured([](LocalOptions& o) { o.limit_seconds = 0; });
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_FALSE(entries[0].latency);
  EXPECT_TRUE(entries[1].latency);
  EXPECT_NE(log_.find("no time was left to measure full"), std::string::npos);
}

TEST_F(Local, ATargetChoosesByThem) {
  LoadOptions options;
  options.engine.threads = 1;
  options.target = LatencyTarget{1e6, {}, 95};
  EXPECT_EQ(Runtime::load(test::bundle_path(), options)->entry().version, "full");
  options.target = LatencyTarget{1e-6, {}, 95};
  std::string message;
  EXPECT_EQ(test::status_of([&] { Runtime::load(test::bundle_path(), options); }, &message), AR_NO_ENGINE_MEETS_TARGET);
  EXPECT_NE(message.find("t2-l2"), std::string::npos);
  options.fallback_fastest = true;
  EXPECT_TRUE(Runtime::load(test::bundle_path(), options)->entry().latency);
}

}  // namespace
}  // namespace ar
