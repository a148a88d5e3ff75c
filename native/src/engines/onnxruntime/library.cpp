#include "engines/onnxruntime/library.hpp"

#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "contract/error.hpp"
#include "contract/places.hpp"

namespace ar {
namespace {

namespace fs = std::filesystem;

constexpr int kOldest = 20;  // minor version; older ones were never tried
constexpr const char* kSystem = "libonnxruntime.so.1";
constexpr const char* kRemedy =
    "install ONNX Runtime (pip install onnxruntime) and let ALLROUNDER_ORT_LIBRARY name its capi/libonnxruntime.so.*";

std::mutex opening;
std::atomic<const OrtLibrary*> opened{nullptr};

fs::path real_path(const fs::path& path) {
  std::error_code failed;
  fs::path real = fs::canonical(path, failed);
  return failed ? path : real;
}

// Returns what is to be opened: a path, or the name that the system's search knows.
std::string found(const std::string& wanted) {
  const char* named = std::getenv("ALLROUNDER_ORT_LIBRARY");
  const std::string explicit_path = !wanted.empty() ? wanted : named != nullptr ? named : "";
  // Absolute: the loader searches its own folders for a name without a slash.
  if (!explicit_path.empty()) return fs::absolute(explicit_path).string();
  for (const char* name : {kSystem, "libonnxruntime.so"}) {
    const fs::path beside = own_folder() / name;
    std::error_code failed;
    if (fs::exists(beside, failed)) return beside.string();
  }
  return kSystem;
}

// Returns the version of the interface to ask for: a newer library has all older ones, an older one only its own.
uint32_t interface_version(const std::string& version, const std::string& where) {
  int major = 0, minor = 0;
  if (std::sscanf(version.c_str(), "%d.%d", &major, &minor) != 2 || major != 1 || minor < kOldest) {
    throw Error(AR_ENGINE_UNAVAILABLE, "this ONNX Runtime is too old, or of an unknown kind",
                {where, quoted(version), "1." + std::to_string(kOldest) + " or newer of version 1", kRemedy});
  }
  return static_cast<uint32_t>(std::min(minor, ORT_API_VERSION));
}

OrtEnv* new_environment(const OrtApi& api, const std::string& where) {
  OrtEnv* env = nullptr;
  OrtStatus* status = api.CreateEnv(ORT_LOGGING_LEVEL_ERROR, "allrounder", &env);
  if (status == nullptr) return env;
  const std::string got = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  throw Error(AR_BACKEND_ERROR, "ONNX Runtime cannot be set up", {where, got, "", ""});
}

const OrtLibrary* open(const std::string& wanted) {
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // read when the library is loaded; who set it already has decided
  const std::string name = found(wanted);
  void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = dlerror();
    throw Error(AR_ENGINE_UNAVAILABLE, "ONNX Runtime's library cannot be opened",
                {name, reason != nullptr ? reason : "", "", kRemedy});
  }
  // POSIX lets an object pointer be a function; ISO C++ does not know.
  auto* get_base = reinterpret_cast<decltype(&OrtGetApiBase)>(dlsym(handle, "OrtGetApiBase"));
  if (get_base == nullptr) {
    dlclose(handle);
    throw Error(AR_ENGINE_UNAVAILABLE, "this library is not ONNX Runtime", {name, "no OrtGetApiBase", "", kRemedy});
  }
  const OrtApiBase* base = get_base();
  const std::string version = base->GetVersionString();
  const OrtApi* api = base->GetApi(interface_version(version, name));
  if (api == nullptr) {
    throw Error(AR_ENGINE_UNAVAILABLE, "this ONNX Runtime does not have its own interface",
                {name, version, "", kRemedy});
  }
  fs::path path = file_of(reinterpret_cast<const void*>(get_base));
  return new OrtLibrary{api, new_environment(*api, name), version, std::move(path)};  // for good, see the header
}

}  // namespace

const OrtLibrary& ort_library(const std::string& wanted) {
  const std::lock_guard lock(opening);
  const OrtLibrary* library = opened.load();
  if (library == nullptr) {
    library = open(wanted);
    opened.store(library);
  } else if (!wanted.empty() && real_path(wanted) != library->path) {
    throw Error(AR_INPUT_INVALID, "another ONNX Runtime is open in this process, and stays",
                {"ort_library", wanted, library->path.string(), "name that one, or none"});
  }
  return *library;
}

const OrtLibrary& open_ort_library() { return *opened.load(); }

std::optional<fs::path> ort_ops_library() {
  std::error_code failed;
  if (const char* named = std::getenv("ALLROUNDER_ORT_OPS"); named != nullptr && *named != '\0') {
    if (fs::is_regular_file(named, failed)) return fs::absolute(named);
    throw Error(AR_ENGINE_UNAVAILABLE, "there is no such library", {"ALLROUNDER_ORT_OPS", named, "", "unset it"});
  }
  fs::path beside = own_folder() / "liballrounder_ort_ops.so";
  if (fs::is_regular_file(beside, failed)) return beside;
  return std::nullopt;
}

}  // namespace ar
