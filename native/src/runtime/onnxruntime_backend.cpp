// The ONNX Runtime backend: session options, providers, and the machine's fingerprint; runtime/onnxruntime_backend.py.
#include <algorithm>

#include "contract/error.hpp"
#include "contract/fingerprint.hpp"
#include "runtime/gpu.hpp"
#include "runtime/onnxruntime_session.hpp"

namespace ar {
namespace {

constexpr const char* kOptions = "ONNX Runtime refuses the session's options";
constexpr int kErrors = 3;  // the log's level; errors are returned as well
// The graphs' operators (opset 24) on the CPU: TensorScatter and Attention, in place and inside If.
constexpr const char* kNewEnough = "1.31";

std::vector<std::string> providers() {
  char** names = nullptr;
  int count = 0;
  ort_check(ort().GetAvailableProviders(&names, &count), "ONNX Runtime does not tell its providers", "");
  std::vector<std::string> found(names, names + count);
  ort_check(ort().ReleaseAvailableProviders(names, count), "ONNX Runtime does not tell its providers", "");
  return found;
}

void require_provider(const EngineOptions& options) {
  const std::string provider = options.on_cpu() ? "CPUExecutionProvider" : "CUDAExecutionProvider";
  const std::vector<std::string> available = providers();
  if (std::find(available.begin(), available.end(), provider) != available.end()) return;
  std::string got;
  for (const std::string& name : available) got += (got.empty() ? "" : ", ") + name;
  throw Error(AR_ENGINE_UNAVAILABLE, "ONNX Runtime has no " + provider,
              {options.device, got + " in " + open_ort_library().path.string(), "",
               "give the library of onnxruntime-gpu (ALLROUNDER_ORT_LIBRARY), or choose device cpu"});
}

// Unlike Python's layer above it, the library does not fall back to the CPU by itself: it fails here.
void use_cuda(OrtSessionOptions* settings, const EngineOptions& options) {
  OrtCUDAProviderOptionsV2* raw = nullptr;
  ort_check(ort().CreateCUDAProviderOptions(&raw), kOptions, options.device);
  const OrtOwned<OrtCUDAProviderOptionsV2> cuda(raw);
  const std::string index = std::to_string(options.device_index());
  const char* key = "device_id";
  const char* value = index.c_str();
  ort_check(ort().UpdateCUDAProviderOptions(cuda.get(), &key, &value, 1), kOptions, options.device);
  try {
    ort_check(ort().SessionOptionsAppendExecutionProvider_CUDA_V2(settings, cuda.get()), kOptions, options.device);
  } catch (const Error& error) {
    throw Error(AR_ENGINE_UNAVAILABLE, "ONNX Runtime could not use the device",
                {options.device, error.what(), "",
                 "install the CUDA and cuDNN libraries that onnxruntime-gpu names, or choose device cpu"});
  }
}

// Lets the library's kernel take the place of the graph's own function, or says that there is none.
void use_native_op(OrtSessionOptions* settings, const EngineOptions& options) {
  const std::optional<std::filesystem::path> library = ort_ops_library();
  if (!library) {
    tell(options.log, Level::kInfo,
         "the bundle asks for the native gather op, which is not installed: its own function runs instead");
    return;
  }
  ort_check(ort().RegisterCustomOpsLibrary_V2(settings, library->c_str()), "ONNX Runtime refuses the native gather op",
            library->string(), "install allrounder again, or remove that file: the same bundle runs without it");
  tell(options.log, Level::kInfo, "the native gather op is taken from " + library->string());
}

OrtOwned<OrtSessionOptions> settings_for(const EngineOptions& options, bool native_op) {
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
  if (!options.on_cpu()) use_cuda(raw, options);
  return settings;
}

bool too_old(const std::string& version) {  // for the operators of today's graphs
  return version.size() < 4 || std::stoi(version.substr(2)) < std::stoi(std::string(kNewEnough).substr(2));
}

std::shared_ptr<const Session> open_session(const std::filesystem::path& path, const EngineOptions& options,
                                            bool native_op) {
  const OrtLibrary& library = ort_library(options.ort_library);
  require_provider(options);
  const OrtOwned<OrtSessionOptions> settings = settings_for(options, native_op);
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
  return machine(name, options.thread_count(), gpu.name, gpu.driver);
}

// The library is looked for where a session is opened, with the options that may name it; its absence is told there.
std::optional<std::string> nothing_known() { return std::nullopt; }

}  // namespace

const Backend kOnnxRuntimeBackend{kOnnxRuntime, false, open_session, this_machine, nothing_known};

}  // namespace ar
