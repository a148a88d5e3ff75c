// Adapts TensorRT to seam.hpp, one source for TensorRT 10 and 11.
//
// What it knows: nvinfer1's classes, of which it uses headers alone. What it does not know: what is done with plans.
#include "engines/tensorrt/library.hpp"

#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <set>

#include "contract/error.hpp"
#include "engines/tensorrt/plans.hpp"
#include "engines/mapped_file.hpp"
#include "engines/tensorrt/cuda.hpp"

namespace ar {
namespace {

namespace fs = std::filesystem;

constexpr const char* kVariable = "ALLROUNDER_TENSORRT_LIBRARY";
constexpr const char* kRemedy =
    "install TensorRT (pip install tensorrt) and let ALLROUNDER_TENSORRT_LIBRARY name its libnvinfer.so.*";

// Keeps TensorRT's errors, because its calls return no reason; drops the rest.
class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, char const* message) noexcept override {
    if (severity != Severity::kINTERNAL_ERROR && severity != Severity::kERROR) return;
    try {
      const std::lock_guard lock(guard_);
      if (said_.size() < kMost) said_.append(said_.empty() ? "" : "; ").append(message);
    } catch (...) {  // no memory: the failure that follows has no reason
    }
  }
  // Returns what TensorRT said since the last time.
  std::string reason() {
    const std::lock_guard lock(guard_);
    std::string said;
    said.swap(said_);
    return said.empty() ? "TensorRT gives no reason" : said;
  }

 private:
  static constexpr std::size_t kMost = 4000;  // bytes, more or less
  std::mutex guard_;
  std::string said_;
};

// The one library, open for good: its threads and static objects would not survive being closed.
struct Api {
  std::string version;
  Logger logger;
  decltype(&createInferRuntime_INTERNAL) create_runtime = nullptr;
  decltype(&getPluginRegistry) registry = nullptr;

  Error failure(const char* what, const std::string& where) {
    return {AR_BACKEND_ERROR, what, {where, logger.reason() + " (tensorrt " + version + ")", "", ""}};
  }
};

Kind kind_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kUINT8: return Kind::kUint8;
    case nvinfer1::DataType::kBOOL: return Kind::kBool;
    case nvinfer1::DataType::kINT64: return Kind::kInt64;
    case nvinfer1::DataType::kFLOAT: return Kind::kFloat32;
    case nvinfer1::DataType::kHALF: return Kind::kFloat16;
    case nvinfer1::DataType::kBF16: return Kind::kBfloat16;
    default: return Kind::kOther;
  }
}

// An engine and what it was made with, in the order in which they must end.
struct Loaded {
  Api& api;
  std::string name;  // of the plan's file, for messages
  int device;
  std::mutex making;  // contexts
  std::unique_ptr<nvinfer1::IRuntime> runtime;
  std::unique_ptr<nvinfer1::ICudaEngine> engine;

  Loaded(Api& its_api, std::string its_name, int its_device)
      : api(its_api), name(std::move(its_name)), device(its_device) {}
  Loaded(const Loaded&) = delete;
  Loaded& operator=(const Loaded&) = delete;
  ~Loaded() {
    cudaSetDevice(device);
    engine.reset();
    runtime.reset();
  }
  void must(bool done, const std::string& what) {
    if (!done) throw api.failure("TensorRT failed", name + ", " + what);
  }
  Shape shape(const nvinfer1::Dims& dims, const std::string& tensor) {
    must(dims.nbDims >= 0, tensor);
    return {dims.d, dims.d + dims.nbDims};
  }
};

class TensorRtContext final : public PlanContext {
 public:
  explicit TensorRtContext(std::shared_ptr<Loaded> loaded) : loaded_(std::move(loaded)) {
    const std::lock_guard lock(loaded_->making);
    context_.reset(loaded_->engine->createExecutionContext());
    if (!context_) throw loaded_->api.failure("TensorRT cannot make a context", loaded_->name);
  }
  ~TensorRtContext() override {
    cudaSetDevice(loaded_->device);
    context_.reset();
  }
  void set_profile(int profile, DeviceStream& stream) override {
    loaded_->must(context_->setOptimizationProfileAsync(profile, handle(stream)), "profile");
  }
  void set_shape(const std::string& input, const Shape& shape) override {
    nvinfer1::Dims dims{};
    loaded_->must(shape.size() <= static_cast<std::size_t>(nvinfer1::Dims::MAX_DIMS), input);
    dims.nbDims = static_cast<int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), dims.d);
    loaded_->must(context_->setInputShape(input.c_str(), dims), input);
  }
  void set_address(const std::string& tensor, void* address) override {
    loaded_->must(context_->setTensorAddress(tensor.c_str(), address), tensor);
  }
  Shape shape(const std::string& output) const override {
    Shape found = loaded_->shape(context_->getTensorShape(output.c_str()), output);
    // A size that is not known yet: the plan computes it from values.
    loaded_->must(std::all_of(found.begin(), found.end(), [](int64_t size) { return size >= 0; }), output);
    return found;
  }
  void enqueue(DeviceStream& stream) override { loaded_->must(context_->enqueueV3(handle(stream)), "enqueue"); }

 private:
  static cudaStream_t handle(DeviceStream& stream) { return static_cast<CudaStream&>(stream).handle(); }

  std::shared_ptr<Loaded> loaded_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
};

class TensorRtEngine final : public PlanEngine {
 public:
  explicit TensorRtEngine(std::shared_ptr<Loaded> loaded)
      : loaded_(std::move(loaded)), engine_(*loaded_->engine) {}
  std::vector<PlanPort> ports() const override {
    std::vector<PlanPort> found;
    for (int32_t index = 0; index < engine_.getNbIOTensors(); ++index) {
      const char* const name = engine_.getIOTensorName(index);
      if (engine_.getTensorLocation(name) != nvinfer1::TensorLocation::kDEVICE) {
        throw Error(AR_BACKEND_ERROR, "a plan wants a tensor in the host's memory, which this runtime does not give",
                    {loaded_->name + ", " + name, "", "", ""});
      }
      found.push_back({name, engine_.getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT,
                       kind_of(engine_.getTensorDataType(name))});
    }
    return found;
  }
  int profiles() const override { return engine_.getNbOptimizationProfiles(); }
  PlanRange range(const std::string& input, int profile) const override {
    const auto end = [&](nvinfer1::OptProfileSelector which) {
      return loaded_->shape(engine_.getProfileShape(input.c_str(), profile, which), input);
    };
    return {end(nvinfer1::OptProfileSelector::kMIN), end(nvinfer1::OptProfileSelector::kMAX)};
  }
  std::unique_ptr<PlanContext> context() override { return std::make_unique<TensorRtContext>(loaded_); }

 private:
  std::shared_ptr<Loaded> loaded_;
  const nvinfer1::ICudaEngine& engine_;
};

class Library final : public TensorRt {
 public:
  explicit Library(std::unique_ptr<Api> api) : api_(std::move(api)) {}
  std::string version() const override { return api_->version; }
  std::shared_ptr<Device> device(int index) override { return cuda_device(index); }
  void load_plugin(const fs::path& library) override {
    const std::lock_guard lock(loading_);
    if (plugins_.count(library) != 0) return;
    if (api_->registry()->loadLibrary(library.c_str()) == nullptr) {
      throw api_->failure("TensorRT cannot load the plugin of the gather op", library.string());
    }
    plugins_.insert(library);
  }
  std::unique_ptr<PlanEngine> read(const fs::path& plan, int device, bool host_code) override {
    use_cuda_device(device);
    const MappedFile file(plan, "a plan cannot be read");
    auto loaded = std::make_shared<Loaded>(*api_, plan.filename().string(), device);
    loaded->runtime.reset(
        static_cast<nvinfer1::IRuntime*>(api_->create_runtime(&api_->logger, NV_TENSORRT_VERSION)));
    if (!loaded->runtime) throw api_->failure("TensorRT cannot be set up", plan.string());
    if (host_code) loaded->runtime->setEngineHostCodeAllowed(true);
    loaded->engine.reset(loaded->runtime->deserializeCudaEngine(file.data(), file.size()));
    if (!loaded->engine) throw api_->failure("TensorRT refuses a plan", plan.string());
    return std::make_unique<TensorRtEngine>(std::move(loaded));
  }

 private:
  std::unique_ptr<Api> api_;
  std::mutex loading_;  // guards the plugins
  std::set<fs::path> plugins_;
};

// Returns what is to be opened: a path, or the name that the system's search knows.
std::string found() {
  const char* const named = std::getenv(kVariable);
  if (named != nullptr && *named != '\0') return fs::absolute(named).string();
  return "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR);
}

template <class Function>
Function symbol(void* library, const char* name, const std::string& where) {
  if (auto* const found = reinterpret_cast<Function>(dlsym(library, name))) return found;
  throw Error(AR_ENGINE_UNAVAILABLE, "this library is not TensorRT, or too old",
              {where, "no " + std::string(name), "", kRemedy});
}

// Returns "10.16.1.11".
std::string version_of(void* library, const std::string& where) {
  std::string version;
  for (const char* part : {"Major", "Minor", "Patch", "Build"}) {
    const std::string name = "getInferLib" + std::string(part) + "Version";
    const int32_t number = symbol<decltype(&getInferLibMajorVersion)>(library, name.c_str(), where)();
    version.append(version.empty() ? "" : ".").append(std::to_string(number));
  }
  return version;
}

std::unique_ptr<TensorRt> open() {
  const std::string name = found();
  void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const reason = dlerror();
    throw Error(AR_ENGINE_UNAVAILABLE, "TensorRT's library cannot be opened",
                {name, reason != nullptr ? reason : "", "", kRemedy});
  }
  auto api = std::make_unique<Api>();
  api->version = version_of(library, name);
  const std::vector<int64_t> version = parse_tensorrt_version(api->version);
  if (version.front() != NV_TENSORRT_MAJOR) {  // before the first call by its tables of functions, which differ
    throw Error(AR_ENGINE_UNAVAILABLE, "this runtime was built for another major version of TensorRT",
                {name, "TensorRT " + api->version, "TensorRT " + std::to_string(NV_TENSORRT_MAJOR) + ".x",
                 "name one by ALLROUNDER_TENSORRT_LIBRARY, or build native/ with the headers of that which is there"});
  }
  api->create_runtime = symbol<decltype(api->create_runtime)>(library, "createInferRuntime_INTERNAL", name);
  api->registry = symbol<decltype(api->registry)>(library, "getPluginRegistry", name);
  return std::make_unique<Library>(std::move(api));
}

}  // namespace

TensorRt& tensorrt() {
  static std::mutex opening;
  static TensorRt* opened = nullptr;  // for good, see above
  const std::lock_guard lock(opening);
  if (opened == nullptr) opened = open().release();
  return *opened;
}

}  // namespace ar
