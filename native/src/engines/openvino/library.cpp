#include "engines/openvino/library.hpp"

#include <dlfcn.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

#include "contract/error.hpp"
#include "contract/places.hpp"

namespace ar {
namespace {

namespace fs = std::filesystem;

constexpr const char* kName = "libopenvino_c.so";
// The system's library has its release in its name: 2641 for 2026.4.1. The one without is in packages for developers.
constexpr const char* kSystem[] = {kName, "libopenvino_c.so.2641", "libopenvino_c.so.2640"};
constexpr std::array<int, 2> kOldest = {2026, 4};  // RMSNormalization, RotaryEmbedding and Attention of opset 23
constexpr const char* kRemedy =
    "install OpenVINO (pip install openvino) and let ALLROUNDER_OPENVINO_LIBRARY name its libs/libopenvino_c.so.*";

std::mutex opening;
std::atomic<const OpenVinoLibrary*> opened{nullptr};

fs::path real_path(const fs::path& path) {
  std::error_code failed;
  fs::path real = fs::canonical(path, failed);
  return failed ? path : real;
}

// Returns what is to be opened, the first that can be: a path, or names that the system's search knows.
std::vector<std::string> found(const std::string& wanted) {
  const char* named = std::getenv("ALLROUNDER_OPENVINO_LIBRARY");
  const std::string explicit_path = !wanted.empty() ? wanted : named != nullptr ? named : "";
  // Absolute: the loader searches its own folders for a name without a slash.
  if (!explicit_path.empty()) return {fs::absolute(explicit_path).string()};
  std::error_code failed;
  for (const fs::directory_entry& beside : fs::directory_iterator(own_folder(), failed)) {
    if (beside.path().filename().string().rfind(kName, 0) == 0) return {beside.path().string()};
  }
  return {std::begin(kSystem), std::end(kSystem)};
}

std::pair<void*, std::string> open_first(const std::vector<std::string>& names) {
  std::string reasons;
  for (const std::string& name : names) {
    if (void* const handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return {handle, name};
    const char* const reason = dlerror();
    reasons.append(reasons.empty() ? "" : "; ").append(reason != nullptr ? reason : name);
  }
  throw Error(AR_ENGINE_UNAVAILABLE, "OpenVINO's library cannot be opened", {names.front(), reasons, "", kRemedy});
}

std::string oldest() { return std::to_string(kOldest[0]) + "." + std::to_string(kOldest[1]) + " or newer"; }

template <class Function>
void set(Function& function, void* library, const char* name, const std::string& where) {
  // POSIX lets an object pointer be a function; ISO C++ does not know.
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function != nullptr) return;
  throw Error(AR_ENGINE_UNAVAILABLE, "this library is not OpenVINO's C API, or too old",
              {where, "no " + std::string(name), "OpenVINO " + oldest(), kRemedy});
}

// Returns "2026.4.1" of "2026.4.1-22982-e213a147257-releases/2026/4".
std::string version_of(void* library, const std::string& where) {
  openvino::Api api;
  set(api.ov_get_openvino_version, library, "ov_get_openvino_version", where);
  set(api.ov_version_free, library, "ov_version_free", where);
  openvino::Version raw{};
  if (api.ov_get_openvino_version(&raw) != 0) {
    throw Error(AR_ENGINE_UNAVAILABLE, "OpenVINO does not say its version", {where, "", "", kRemedy});
  }
  const std::string build = raw.build;
  api.ov_version_free(&raw);
  std::array<int, 2> release{};
  if (std::sscanf(build.c_str(), "%d.%d", &release[0], &release[1]) == 2 && release >= kOldest) {
    return build.substr(0, build.find('-'));
  }
  throw Error(AR_ENGINE_UNAVAILABLE, "this OpenVINO is too old, or of an unknown kind",
              {where, quoted(build), "OpenVINO " + oldest(), kRemedy});
}

// Returns why the last call failed; or, as all threads share that, why another thread's did.
std::string last_words(const openvino::Api& api) {
  const char* const said = api.ov_get_last_err_msg();
  const std::string words = said != nullptr ? said : "OpenVINO gives no reason";
  api.ov_free(said);
  return words;
}

const OpenVinoLibrary* open(const std::string& wanted) {
  const auto [handle, name] = open_first(found(wanted));
  auto library = std::make_unique<OpenVinoLibrary>();  // for good, see the header
  library->version = version_of(handle, name);
#define ALLROUNDER_OPENVINO_SET(function, result, arguments) set(library->api.function, handle, #function, name);
  ALLROUNDER_OPENVINO_FUNCTIONS(ALLROUNDER_OPENVINO_SET)
#undef ALLROUNDER_OPENVINO_SET
  if (library->api.ov_core_create(&library->core) != 0) {
    throw Error(AR_ENGINE_UNAVAILABLE, "OpenVINO cannot be set up", {name, last_words(library->api), "", kRemedy});
  }
  library->path = file_of(reinterpret_cast<const void*>(library->api.ov_core_create));
  return library.release();
}

}  // namespace

const OpenVinoLibrary& openvino_library(const std::string& wanted) {
  const std::lock_guard lock(opening);
  const OpenVinoLibrary* library = opened.load();
  if (library == nullptr) {
    library = open(wanted);
    opened.store(library);
  } else if (!wanted.empty() && real_path(wanted) != library->path) {
    throw Error(AR_INPUT_INVALID, "another OpenVINO is open in this process, and stays",
                {"openvino_library", wanted, library->path.string(), "name that one, or none"});
  }
  return *library;
}

const openvino::Api& openvino_api() { return opened.load()->api; }

void openvino_check(openvino::Status status, const char* what, const std::string& where, const std::string& remedy) {
  if (status != 0) throw Error(AR_BACKEND_ERROR, what, {where, last_words(openvino_api()), "", remedy});
}

}  // namespace ar
