// The ONNX Runtime backend: session options, providers, and the machine's fingerprint; engines/onnxruntime/session.py.
#include <algorithm>
#include <map>
#include <type_traits>

#include "contract/error.hpp"
#include "contract/files.hpp"
#include "contract/fingerprint.hpp"
#include "contract/places.hpp"
#include "contract/sha256.hpp"
#include "engines/gpus.hpp"
#include "engines/onnxruntime/session.hpp"

namespace ar {
namespace {

constexpr const char* kOptions = "ONNX Runtime refuses the session's options";
constexpr int kErrors = 3;  // the log's level; errors are returned as well
// The graphs' operators (opset 24) on the CPU: TensorScatter and Attention, in place and inside If.
constexpr const char* kNewEnough = "1.31";
// As in engines/onnxruntime/providers.py, which has the reasons.
constexpr const char* kNotInTensorRt =
    "Attention,If,TensorScatter,TokenGather,TopK,NonMaxSuppression,NonZero,RoiAlign";

std::vector<std::string> providers() {
  char** names = nullptr;
  int count = 0;
  ort_check(ort().GetAvailableProviders(&names, &count), "ONNX Runtime does not list its providers", "");
  std::vector<std::string> found(names, names + count);
  ort_check(ort().ReleaseAvailableProviders(names, count), "ONNX Runtime does not list its providers", "");
  return found;
}

const char* asked_for(const EngineOptions& options) {
  if (options.on_cpu()) return "CPUExecutionProvider";
  return options.on_tensorrt() ? "TensorrtExecutionProvider" : "CUDAExecutionProvider";
}

void require_provider(const EngineOptions& options) {
  const std::string provider = asked_for(options);
  const std::vector<std::string> available = providers();
  if (std::find(available.begin(), available.end(), provider) != available.end()) return;
  std::string got;
  for (const std::string& name : available) got += (got.empty() ? "" : ", ") + name;
  throw Error(AR_ENGINE_UNAVAILABLE, "ONNX Runtime has no " + provider,
              {options.device, got + " in " + open_ort_library().path.string(), "",
               std::string("give the library of onnxruntime-gpu (ALLROUNDER_ORT_LIBRARY), or choose ") +
                   (options.on_tensorrt() ? "provider cuda" : "device cpu")});
}

using Settings = std::map<std::string, std::string>;

// Gives a provider its options, and the session the provider. Unlike Python's layer above it, the library does not fall
// back by itself: it fails here.
template <class Options, class Create, class Update, class Append>
void add_provider(const EngineOptions& options, const Settings& values, Create create, Update update, Append append) {
  Options* raw = nullptr;
  ort_check(create(&raw), kOptions, options.device);
  const OrtOwned<Options> owned(raw);
  std::vector<const char*> keys, texts;
  for (const auto& [key, text] : values) {
    keys.push_back(key.c_str());
    texts.push_back(text.c_str());
  }
  try {
    ort_check(update(raw, keys.data(), texts.data(), keys.size()), kOptions, options.device);
    ort_check(append(raw), kOptions, options.device);
  } catch (const Error& error) {
    const bool tensorrt = std::is_same_v<Options, OrtTensorRTProviderOptionsV2>;
    throw Error(AR_ENGINE_UNAVAILABLE,
                std::string("ONNX Runtime could not use the ") + (tensorrt ? "TensorRT" : "CUDA") + " provider",
                {options.device, error.what(), "",
                 tensorrt ? "install the TensorRT and CUDA libraries that onnxruntime-gpu names (1.31: "
                            "libnvinfer.so.10), or choose provider cuda"
                          : "install the CUDA and cuDNN libraries that onnxruntime-gpu names, or choose device cpu"});
  }
}

void use_cuda(OrtSessionOptions* settings, const EngineOptions& options) {
  // TF32 rounds the inputs of fp32 products to 11 bits: then a graph's precision would not be what it says.
  const Settings values = {{"device_id", std::to_string(options.device_index())}, {"use_tf32", "0"}};
  add_provider<OrtCUDAProviderOptionsV2>(
      options, values, ort().CreateCUDAProviderOptions, ort().UpdateCUDAProviderOptions,
      [&](auto* cuda) { return ort().SessionOptionsAppendExecutionProvider_CUDA_V2(settings, cuda); });
}

// Makes and returns where TensorRT's engines of this graph are kept, or nothing: they hold weights, so each graph has a
// folder. A graph names its weights' file, whose name holds their digest.
std::optional<std::filesystem::path> engine_folder(const std::filesystem::path& graph, const Log& log) {
  const std::optional<std::string> whole = read_file(graph);
  if (!whole) throw Error(AR_BACKEND_ERROR, "a graph cannot be read", {graph.string(), "", "", ""});
  const std::optional<std::filesystem::path> user = cache_dir();
  std::error_code failed;
  if (user) {
    const std::filesystem::path folder = *user / "onnxruntime-tensorrt" / sha256_hex(*whole);
    std::filesystem::create_directories(folder, failed);
    if (!failed) std::filesystem::permissions(folder, std::filesystem::perms::owner_all, failed);
    if (!failed) return folder;
  }
  note(log, Level::kWarning,
       "TensorRT's engines cannot be kept (" + (user ? failed.message() : "there is no cache directory") +
           "): they will be built at every start");
  return std::nullopt;
}

void use_tensorrt(OrtSessionOptions* settings, const EngineOptions& options, const std::filesystem::path& graph) {
  const std::optional<std::filesystem::path> folder = engine_folder(graph, options.log);
  const std::string kept = folder ? "1" : "0";
  Settings values = {{"device_id", std::to_string(options.device_index())},
                     {"trt_op_types_to_exclude", kNotInTensorRt},
                     {"trt_engine_cache_enable", kept},
                     {"trt_timing_cache_enable", kept}};
  if (folder) {
    values["trt_engine_cache_path"] = folder->string();
    values["trt_timing_cache_path"] = folder->parent_path().string();
  }
  note(options.log, Level::kInfo,
       "TensorRT builds engines for a graph's first shapes, and again beyond them: that takes minutes");
  note(options.log, Level::kInfo,
       "TensorRT may round fp32 products to TF32; NVIDIA_TF32_OVERRIDE=0 in the environment forbids it");
  add_provider<OrtTensorRTProviderOptionsV2>(
      options, values, ort().CreateTensorRTProviderOptions, ort().UpdateTensorRTProviderOptions,
      [&](auto* tensorrt) { return ort().SessionOptionsAppendExecutionProvider_TensorRT_V2(settings, tensorrt); });
}

// Best first; the CPU takes what they leave.
void use_gpu(OrtSessionOptions* settings, const EngineOptions& options, const std::filesystem::path& graph) {
  // Headers of ONNX Runtime that this is compiled with, of API 21, have no call for it.
  note(options.log, Level::kInfo,
       "what ONNX Runtime leaves to the CPU is not checked here; Python's runtime refuses graphs of which it is more "
       "than shapes");
  if (options.on_tensorrt()) use_tensorrt(settings, options, graph);
  use_cuda(settings, options);
}

// Lets the library's kernel take the place of the graph's own function, or says that there is none.
void use_native_op(OrtSessionOptions* settings, const EngineOptions& options) {
  const std::optional<std::filesystem::path> library = ort_ops_library();
  if (!library) {
    note(options.log, Level::kInfo,
         "the bundle asks for the native gather op, which is not installed: its own function runs instead");
    return;
  }
  ort_check(ort().RegisterCustomOpsLibrary_V2(settings, library->c_str()), "ONNX Runtime refuses the native gather op",
            library->string(), "install allrounder again, or remove that file: the same bundle runs without it");
  note(options.log, Level::kInfo, "the native gather op is taken from " + library->string());
}

OrtOwned<OrtSessionOptions> settings_for(const std::filesystem::path& graph, const EngineOptions& options,
                                         bool native_op) {
  OrtSessionOptions* raw = nullptr;
  ort_check(ort().CreateSessionOptions(&raw), kOptions, "");
  OrtOwned<OrtSessionOptions> settings(raw);
  const auto entry = [raw](const char* key, const char* value) {
    ort_check(ort().AddSessionConfigEntry(raw, key, value), kOptions, key);
  };
  ort_check(ort().SetIntraOpNumThreads(raw, options.thread_count()), kOptions, "threads");
  ort_check(ort().SetInterOpNumThreads(raw, 1), kOptions, "threads");
  ort_check(ort().SetSessionLogSeverityLevel(raw, kErrors), kOptions, "log");
  // Each session has threads of its own: one that waits by spinning takes the core from one that has work
  // (docs/decisions/0006-threads-do-not-spin.md has the figures).
  entry("session.intra_op.allow_spinning", "0");
  if (options.weights == Weights::kShared) entry("session.disable_prepacking", "1");
  if (native_op) use_native_op(raw, options);
  if (!options.on_cpu()) use_gpu(raw, options, graph);
  return settings;
}

bool too_old(const std::string& version) {  // for the operators of today's graphs
  return version.size() < 4 || std::stoi(version.substr(2)) < std::stoi(std::string(kNewEnough).substr(2));
}

std::shared_ptr<const Session> open_session(const std::filesystem::path& path, const EngineOptions& options,
                                            bool native_op) {
  const OrtLibrary& library = ort_library(options.ort_library);
  require_provider(options);
  const OrtOwned<OrtSessionOptions> settings = settings_for(path, options, native_op);
  OrtSession* session = nullptr;
  if (OrtStatus* status = library.api->CreateSession(library.env, path.c_str(), settings.get(), &session)) {
    const std::string got = library.api->GetErrorMessage(status);
    library.api->ReleaseStatus(status);
    const std::string remedy = too_old(library.version) ? "use ONNX Runtime " + std::string(kNewEnough) +
                                                              " or newer; this one is " + library.version
                                                        : "";
    throw Error(AR_BACKEND_ERROR, "ONNX Runtime refuses a graph", {path.string(), got, "", remedy});
  }
  return std::make_shared<OnnxRuntimeSession>(OrtOwned<OrtSession>(session), path.filename().string(), options);
}

Machine this_machine(const EngineOptions& options) {
  const OrtLibrary& library = ort_library(options.ort_library);
  require_provider(options);
  const std::string name = std::string(kOnnxRuntime) + " " + library.version;
  if (options.on_cpu()) return machine(name, options.thread_count());
  const Gpu gpu = read_gpu(options.device_index());
  const std::string provider = options.on_tensorrt() ? " tensorrt" : "";  // another speed
  return machine(name + provider, options.thread_count(), gpu.name, gpu.driver);
}

// The library is opened with a session, by the options that may name it; its absence is an error there.
std::optional<std::string> nothing_known(const EngineOptions&) { return std::nullopt; }

}  // namespace

const Backend kOnnxRuntimeBackend{kOnnxRuntime, false, open_session, this_machine, nothing_known};

}  // namespace ar
