// Stands in for libnvinfer: one plan, whose steps add what its cache counts to each id.
//
// `nvinfer_stubs.hpp` is made by compile_check.sh from TensorRT's own headers: all methods of its interfaces, each of
// which ends the program; here stand those that the runtime calls. Work is put into streams by cudaLaunchHostFunc, which
// can be captured.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "fakes.hpp"
#include "nvinfer_stubs.hpp"

namespace ar::testing {
namespace {

using nvinfer1::Dims;

constexpr int64_t kMost = 8;  // new tokens of the second profile

struct Port {
  const char* name;
  nvinfer1::TensorIOMode mode;
  nvinfer1::DataType type;
};
constexpr Port kPorts[] = {
    {"input_ids", nvinfer1::TensorIOMode::kINPUT, nvinfer1::DataType::kINT64},
    {"cache_key.0", nvinfer1::TensorIOMode::kINPUT, nvinfer1::DataType::kFLOAT},
    {"logits", nvinfer1::TensorIOMode::kOUTPUT, nvinfer1::DataType::kFLOAT},
    {"cache_key_out.0", nvinfer1::TensorIOMode::kOUTPUT, nvinfer1::DataType::kFLOAT},
};

const Port& port(std::string_view name) {
  for (const Port& each : kPorts) {
    if (name == each.name) return each;
  }
  std::fprintf(stderr, "there is no tensor %s\n", std::string(name).c_str());
  std::abort();
}

Dims dims(const std::vector<int64_t>& sizes) {
  Dims made{};
  made.nbDims = static_cast<int32_t>(sizes.size());
  for (std::size_t index = 0; index < sizes.size(); ++index) {
    made.d[index] = static_cast<decltype(made.d[0] + 0)>(sizes[index]);
  }
  return made;
}

class Context final : public nvinfer1::IExecutionContext, public nvinfer1::apiv::StubExecutionContext {
 public:
  Context() { mImpl = this; }

 private:
  bool setOptimizationProfileAsync(int32_t profile, cudaStream_t) noexcept override {
    most_ = profile == 0 ? 1 : kMost;
    return profile < 2;
  }
  bool setInputShape(char const* name, Dims const& shape) noexcept override {
    if (std::string_view(name) == "input_ids") count_ = shape.d[1];
    return count_ <= most_;
  }
  bool setTensorAddress(char const* name, void* address) noexcept override {
    addresses_[port(name).name] = address;
    return true;
  }
  Dims getTensorShape(char const* name) const noexcept override {
    return dims(std::string_view(name) == "logits" ? std::vector<int64_t>{1, count_} : std::vector<int64_t>{1});
  }
  bool enqueueV3(cudaStream_t stream) noexcept override {
    return cudaLaunchHostFunc(stream, step, this) == cudaSuccess;
  }

  static void step(void* data) {
    auto& self = *static_cast<Context*>(data);
    const auto* ids = static_cast<const int64_t*>(self.addresses_.at("input_ids"));
    auto* cache = static_cast<float*>(self.addresses_.at("cache_key.0"));
    auto* logits = static_cast<float*>(self.addresses_.at("logits"));
    if (cache != self.addresses_.at("cache_key_out.0")) std::abort();  // the cache is not in place
    for (int64_t index = 0; index < self.count_; ++index) logits[index] = static_cast<float>(ids[index]) + *cache;
    *cache += static_cast<float>(self.count_);
  }

  int64_t most_ = 0, count_ = 0;
  std::map<std::string, void*> addresses_;
};

class Engine final : public nvinfer1::ICudaEngine, public nvinfer1::apiv::StubCudaEngine {
 public:
  explicit Engine(bool on_host) : on_host_(on_host) { mImpl = this; }

 private:
  int32_t getNbIOTensors() const noexcept override { return static_cast<int32_t>(std::size(kPorts)); }
  char const* getIOTensorName(int32_t index) const noexcept override { return kPorts[index].name; }
  nvinfer1::TensorIOMode getTensorIOMode(char const* name) const noexcept override { return port(name).mode; }
  nvinfer1::DataType getTensorDataType(char const* name) const noexcept override { return port(name).type; }
  nvinfer1::TensorLocation getTensorLocation(char const*) const noexcept override {
    return on_host_ ? nvinfer1::TensorLocation::kHOST : nvinfer1::TensorLocation::kDEVICE;
  }
  int32_t getNbOptimizationProfiles() const noexcept override { return 2; }
  Dims getProfileShape(char const* name, int32_t profile, nvinfer1::OptProfileSelector which) const noexcept override {
    if (port(name).type == nvinfer1::DataType::kFLOAT) return dims({1});
    return dims({1, profile == 1 && which == nvinfer1::OptProfileSelector::kMAX ? kMost : 1});
  }
  nvinfer1::IExecutionContext* createExecutionContext(
      nvinfer1::ExecutionContextAllocationStrategy) noexcept override {
    return new Context;
  }
  bool on_host_;
};

class Runtime final : public nvinfer1::IRuntime, public nvinfer1::apiv::StubRuntime {
 public:
  explicit Runtime(nvinfer1::ILogger& logger) : logger_(logger) { mImpl = this; }

 private:
  nvinfer1::ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept override {
    const std::string_view text(static_cast<const char*>(blob), size);
    if (text == "a plan" || text == "a plan on the host") return new Engine(text != "a plan");
    logger_.log(nvinfer1::ILogger::Severity::kWARNING, "not to be told");
    logger_.log(nvinfer1::ILogger::Severity::kERROR, "stdArchiveMagic does not match");
    return nullptr;
  }
  void setEngineHostCodeAllowed(bool) noexcept override {}
  nvinfer1::ILogger& logger_;
};

int32_t version(int part) {
  int32_t parts[4] = {};
  const char* text = std::getenv("NVINFER_DOUBLE_VERSION");
  if (text == nullptr) std::abort();
  std::sscanf(text, "%d.%d.%d.%d", &parts[0], &parts[1], &parts[2], &parts[3]);
  return parts[part];
}

}  // namespace
}  // namespace ar::testing

#define AR_EXPORTED __attribute__((visibility("default")))

extern "C" {

AR_EXPORTED int32_t getInferLibMajorVersion() noexcept { return ar::testing::version(0); }
AR_EXPORTED int32_t getInferLibMinorVersion() noexcept { return ar::testing::version(1); }
AR_EXPORTED int32_t getInferLibPatchVersion() noexcept { return ar::testing::version(2); }
AR_EXPORTED int32_t getInferLibBuildVersion() noexcept { return ar::testing::version(3); }
AR_EXPORTED void* createInferRuntime_INTERNAL(void* logger, int32_t) noexcept {
  return static_cast<nvinfer1::IRuntime*>(new ar::testing::Runtime(*static_cast<nvinfer1::ILogger*>(logger)));
}
AR_EXPORTED nvinfer1::IPluginRegistry* getPluginRegistry() noexcept {
  static ar::tensorrt::testing::Registry registry;
  return &registry;
}

}  // extern "C"
