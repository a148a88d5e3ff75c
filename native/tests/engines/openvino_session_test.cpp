// Sessions on the OpenVINO that ALLROUNDER_OPENVINO_LIBRARY names, with small graphs of their own.
#include "engines/openvino/session.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "contract/fingerprint.hpp"
#include "runtime/world.hpp"

namespace ar {
namespace {

namespace fs = std::filesystem;
using Numbers = std::vector<float>;

// A place of a layer, of [?, 2, ?, 2].
std::string port(int id, const std::string& type, const std::string& name = "") {
  return "<port id=\"" + std::to_string(id) + "\" precision=\"" + type + "\"" +
         (name.empty() ? "" : " names=\"" + name + "\"") +
         "><dim>-1</dim><dim>2</dim><dim>-1</dim><dim>2</dim></port>";
}

std::string layer(int id, const std::string& name, const std::string& kind, const std::string& parts) {
  return "<layer id=\"" + std::to_string(id) + "\" name=\"" + name + "\" type=\"" + kind +
         "\" version=\"opset1\">" + parts + "</layer>";
}

std::string parameter(int id, const std::string& name, const std::string& type) {
  return layer(id, name, "Parameter",
               "<data shape=\"?,2,?,2\" element_type=\"" + type + "\"/><output>" + port(0, type, name) + "</output>");
}

// A binary op, and its result.
std::string op(int id, const std::string& kind, const std::string& name, const std::string& type) {
  return layer(id, name, kind,
               "<data auto_broadcast=\"numpy\"/><input>" + port(0, type) + port(1, type) + "</input><output>" +
                   port(2, type, name) + "</output>") +
         layer(id + 1, name + "/result", "Result", "<input>" + port(0, type) + "</input>");
}

std::string edge(int from, int port, int to, int into) {
  return "<edge from-layer=\"" + std::to_string(from) + "\" from-port=\"" + std::to_string(port) + "\" to-layer=\"" +
         std::to_string(to) + "\" to-port=\"" + std::to_string(into) + "\"/>";
}

// cache_out = cache + new; product = cache * new; all [?, 2, ?, 2] of one type.
std::string toy(const std::string& type) {
  return "<?xml version=\"1.0\"?><net name=\"toy\" version=\"11\"><layers>" + parameter(0, "cache", type) +
         parameter(1, "new", type) + op(2, "Add", "cache_out", type) + op(4, "Multiply", "product", type) +
         "</layers><edges>" +
         edge(0, 0, 2, 0) + edge(1, 0, 2, 1) + edge(2, 2, 3, 0) + edge(0, 0, 4, 0) + edge(1, 0, 4, 1) +
         edge(4, 2, 5, 0) + "</edges></net>";
}

Numbers numbers(const Tensor& tensor) {
  const auto* first = static_cast<const float*>(tensor.data());
  return {first, first + tensor.bytes() / sizeof(float)};
}

Array array(const Shape& shape, const Numbers& values) { return {Kind::kFloat32, shape, values.data()}; }

class OpenVinoSessions : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("ALLROUNDER_OPENVINO_LIBRARY") == nullptr) {
      GTEST_SKIP() << "ALLROUNDER_OPENVINO_LIBRARY names no library (libs/libopenvino_c.so.* of the package openvino)";
    }
    folder_ = fs::temp_directory_path() / ("allrounder-" + std::to_string(std::random_device()()));
    fs::create_directories(folder_);
  }
  void TearDown() override {
    if (!folder_.empty()) fs::remove_all(folder_);
  }
  fs::path written(const std::string& graph) const {
    const fs::path path = folder_ / "toy.xml";
    std::ofstream(path) << graph;
    return path;
  }
  std::shared_ptr<const Session> open(const std::string& type = "f32") const {
    EngineOptions options;
    options.threads = 1;
    return backend(kOpenVino).open_session(written(toy(type)), options, false);
  }
  static std::string refusal(const std::function<void()>& work, ar_status status = AR_BACKEND_ERROR) {
    std::string message;
    EXPECT_EQ(test::status_of(work, &message), status);
    return message;
  }
  fs::path folder_;
};

TEST_F(OpenVinoSessions, RunsGraphsByTheNamesOfTheirOwn) {
  const auto session = open();
  EXPECT_EQ(session->inputs(), (std::vector<std::string>{"cache", "new"}));
  EXPECT_EQ(session->outputs(), (std::vector<std::string>{"cache_out", "product"}));
  const Numbers cache = {1, 2, 3, 4}, added = {10, 20, 30, 40};
  const Shape shape = {1, 2, 1, 2};
  const Tensors found = session->run({{"cache", array(shape, cache)}, {"new", array(shape, added)}}, {});
  EXPECT_EQ(numbers(*found.at("cache_out")), (Numbers{11, 22, 33, 44}));
  EXPECT_EQ(numbers(*found.at("product")), (Numbers{10, 40, 90, 160}));
  EXPECT_EQ(found.at("product")->shape(), shape);
  // A tensor of one run is fed to another, and both stay what they are.
  const Tensors next = session->run({{"cache", found.at("cache_out")}, {"new", array(shape, added)}}, {});
  EXPECT_EQ(numbers(*next.at("cache_out")), (Numbers{21, 42, 63, 84}));
  EXPECT_EQ(numbers(*found.at("cache_out")), (Numbers{11, 22, 33, 44}));
}

TEST_F(OpenVinoSessions, WhatIsEmptyStaysEmpty) {
  const auto session = open();
  const Array nothing{Kind::kFloat32, {1, 2, 0, 2}, nullptr};
  const Tensors found = session->run({{"cache", nothing}, {"new", session->zeros("new", {1, -1, 0, -1})}}, {});
  EXPECT_EQ(found.at("cache_out")->shape(), (Shape{1, 2, 0, 2}));
  EXPECT_EQ(found.at("cache_out")->bytes(), 0u);
}

TEST_F(OpenVinoSessions, BindingsGrowInPlaceAndReadCellsAnew) {
  const auto session = open();
  const auto slots = session->slots("cache", 3, 1);
  const TensorPtr two = slots->first(2);
  EXPECT_EQ(two->shape(), (Shape{2, 2, 1, 2}));
  EXPECT_EQ(numbers(*two), Numbers(8));
  const Numbers ones(8, 1);
  const auto cell = session->cell(array({2, 2, 1, 2}, ones));
  const auto bound = session->bind({{"cache", two}, {"new", cell}}, {{"cache_out", two}});
  const Tensors first = bound->run();
  EXPECT_EQ(first.count("cache_out"), 0u);
  EXPECT_EQ(numbers(*first.at("product")), Numbers(8));
  EXPECT_EQ(numbers(*two), ones);
  static_cast<float*>(cell->values())[0] = 5;
  const Tensors second = bound->run();
  EXPECT_EQ(numbers(*second.at("product")), (Numbers{5, 1, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(numbers(*first.at("product")), Numbers(8));  // in memory of its own
  EXPECT_EQ(numbers(*two), (Numbers{6, 2, 2, 2, 2, 2, 2, 2}));
  EXPECT_EQ(numbers(*slots->row(0)), (Numbers{6, 2, 2, 2}));
  EXPECT_EQ(numbers(*slots->row(2)), Numbers(4));
  slots->move(0, 2);
  EXPECT_EQ(numbers(*slots->row(2)), (Numbers{6, 2, 2, 2}));
}

TEST_F(OpenVinoSessions, HalfPrecisionsKeepTheirTypes) {
  for (const auto& [type, kind] : {std::pair("bf16", Kind::kBfloat16), std::pair("f16", Kind::kFloat16)}) {
    const auto session = open(type);
    const TensorPtr cache = session->zeros("cache", {1, -1, 1, -1});
    EXPECT_EQ(cache->kind(), kind);
    const uint16_t one = kind == Kind::kBfloat16 ? 0x3f80 : 0x3c00;
    const std::vector<uint16_t> ones(4, one);
    const Array given{kind, {1, 2, 1, 2}, ones.data()};
    const Tensors found = session->run({{"cache", cache}, {"new", given}}, {});
    EXPECT_EQ(found.at("cache_out")->kind(), kind);
    EXPECT_EQ(static_cast<const uint16_t*>(found.at("cache_out")->data())[3], one);
  }
}

TEST_F(OpenVinoSessions, WhatDoesNotFitIsRefusedByName) {
  const auto session = open();
  const TensorPtr good = session->zeros("cache", {1, -1, 1, -1}), long_one = session->zeros("cache", {1, -1, 2, -1});
  const auto bound = session->bind({{"cache", good}, {"new", good}}, {{"cache_out", long_one}});
  EXPECT_EQ(refusal([&] { bound->run(); }),
            "OpenVINO gave another shape; where: toy.xml: cache_out; got: [1, 2, 1, 2] float32; wanted: [1, 2, 2, 2] "
            "float32");
  EXPECT_NE(refusal([&] { session->run({{"strange", good}}, {}); }).find("toy.xml; got: 'strange'"), std::string::npos);
  EXPECT_NE(refusal([&] { session->zeros("cache", {1, -1}); }).find("toy.xml: cache"), std::string::npos);
  const int64_t id = 1;
  const Array other{Kind::kInt64, {1, 1}, &id};
  const std::string said = refusal([&] { session->run({{"cache", other}, {"new", good}}, {}); });
  EXPECT_EQ(said.rfind("OpenVINO failed; where: toy.xml; got: ", 0), 0u) << said;
}

TEST_F(OpenVinoSessions, AGraphThatIsNoneIsABackendError) {
  const fs::path path = written("no graph");
  const auto open_it = [&](const fs::path& which) { backend(kOpenVino).open_session(which, {}, false); };
  EXPECT_NE(refusal([&] { open_it(path); }).find("OpenVINO refuses a graph; where: " + path.string()),
            std::string::npos);
  const fs::path link = folder_ / "link.xml";
  fs::create_symlink(path, link);
  EXPECT_NE(refusal([&] { open_it(link); }).find("cp -rL BUNDLE DIRECTORY"), std::string::npos);
  EXPECT_NE(refusal([&] { open("f64"); }).find("toy.xml: cache; got: OpenVINO's type 5"), std::string::npos);
}

TEST_F(OpenVinoSessions, ManyThreadsRunAtOnce) {
  const auto session = open();
  const auto work = [&](float seed) {
    const Shape shape = {1, 2, 1, 2};
    const Numbers values(4, seed);
    const auto bound = session->bind({{"cache", session->cell(array(shape, values))},
                                      {"new", session->cell(array(shape, values))}}, {});
    for (int round = 0; round < 50; ++round) {
      EXPECT_EQ(numbers(*bound->run().at("cache_out")), Numbers(4, 2 * seed));
      const Tensors found = session->run({{"cache", array(shape, values)}, {"new", array(shape, values)}}, {});
      EXPECT_EQ(numbers(*found.at("product")), Numbers(4, seed * seed));
    }
  };
  std::vector<std::thread> threads;
  for (int seed = 1; seed < 7; ++seed) threads.emplace_back(work, static_cast<float>(seed));
  for (std::thread& thread : threads) thread.join();
}

TEST_F(OpenVinoSessions, TheLibraryIsPartOfTheFingerprint) {
  EngineOptions options;
  options.threads = 3;
  const Machine machine = backend(kOpenVino).machine(options);
  EXPECT_EQ(machine.backend, "openvino " + openvino_library("").version);
  EXPECT_EQ(machine.backend.find('-'), std::string::npos);
  EXPECT_EQ(machine.threads, 3);
  EXPECT_EQ(why_not(kOpenVino), std::nullopt);
  options.device = "cuda";
  EXPECT_NE(refusal([&] { backend(kOpenVino).machine(options); }, AR_ENGINE_UNAVAILABLE).find("wanted: cpu"),
            std::string::npos);
  EXPECT_NE(refusal([] { openvino_library(SOME_LIBRARY); }, AR_INPUT_INVALID).find("libopenvino_c.so"),
            std::string::npos);
}

TEST_F(OpenVinoSessions, AForkOpensNone) {
  const auto session = open();
  const pid_t child = fork();
  if (child == 0) {
    std::string message;
    const ar_status status = test::status_of([&] { open(); }, &message);
    std::_Exit(status == AR_ENGINE_UNAVAILABLE && message.find("forked") != std::string::npos ? 7 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 7);
}

}  // namespace
}  // namespace ar
