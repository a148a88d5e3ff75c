#include "engines/gpus.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <optional>
#include <sstream>
#include <system_error>

#include "contract/error.hpp"
#include "contract/files.hpp"

namespace ar {
namespace {

namespace fs = std::filesystem;

// The driver's interface is C and stable: these are its declarations, so that its headers need not be there.
using Init = int (*)(unsigned flags);
using GetInt = int (*)(int* value);
using GetDevice = int (*)(int* device, int index);
using GetName = int (*)(char* name, int size, int device);
using GetAttribute = int (*)(int* value, int attribute, int device);

using Context = void*;
using GetContext = int (*)(Context* context, int device);
using Push = int (*)(Context context);
using Pop = int (*)(Context* context);
using Fill = int (*)(std::uintptr_t memory, unsigned char value, std::size_t bytes);
using Wait = int (*)();
using Release = int (*)(int device);

constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*

struct Driver {
  Init init = nullptr;
  GetInt count = nullptr, version = nullptr;
  GetDevice device = nullptr;
  GetName name = nullptr;
  GetAttribute attribute = nullptr;
};

template <class Function>
bool find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

// Opens the driver's library, for good: it does not survive being closed.
bool open(const std::string& path, Driver* driver) {
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  return library != nullptr && find(library, "cuInit", &driver->init) &&
         find(library, "cuDeviceGetCount", &driver->count) && find(library, "cuDriverGetVersion", &driver->version) &&
         find(library, "cuDeviceGet", &driver->device) && find(library, "cuDeviceGetName", &driver->name) &&
         find(library, "cuDeviceGetAttribute", &driver->attribute);
}

CudaGpu facts(const Driver& driver, int index, const std::string& cuda) {
  int device = 0, major = 0, minor = 0;
  std::array<char, 256> name{};
  driver.device(&device, index);
  driver.name(name.data(), static_cast<int>(name.size()) - 1, device);
  driver.attribute(&major, kMajor, device);
  driver.attribute(&minor, kMinor, device);
  return {name.data(), major * 10 + minor, cuda};
}

std::vector<fs::path> information_files(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code failed;
  for (fs::directory_iterator each(folder / "gpus", failed), end; !failed && each != end; each.increment(failed)) {
    std::error_code unreadable;
    const fs::path file = each->path() / "information";
    if (fs::exists(file, unreadable)) files.push_back(file);
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Returns what follows `mark` in the first line that has it; without white space around it.
std::optional<std::string> after(const std::string& text, const std::string& mark) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t found = line.find(mark);
    if (found == std::string::npos) continue;
    const std::size_t first = line.find_first_not_of(" \t\r", found + mark.size());
    if (first == std::string::npos) return std::nullopt;
    return line.substr(first, line.find_last_not_of(" \t\r") + 1 - first);
  }
  return std::nullopt;
}

// Returns the first word that begins as a version does: digits, a point, digits and points.
std::string version_in(const std::string& text) {
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    const std::string version = word.substr(0, word.find_first_not_of("0123456789."));
    const std::size_t point = version.find('.');
    if (point != 0 && point != std::string::npos && point + 1 < version.size()) return version;
  }
  return "";
}

}  // namespace

std::vector<CudaGpu> cuda_gpus(const std::string& path) {
  Driver driver;
  int count = 0, version = 0;
  if (!open(path, &driver) || driver.init(0) != 0 || driver.count(&count) != 0) return {};
  driver.version(&version);
  const std::string cuda = "CUDA " + std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
  std::vector<CudaGpu> gpus;
  for (int index = 0; index < count; ++index) gpus.push_back(facts(driver, index, cuda));
  return gpus;
}

CudaGpu cuda_gpu(int index, const std::string& path) {
  const std::vector<CudaGpu> gpus = cuda_gpus(path);
  if (static_cast<std::size_t>(index) < gpus.size()) return gpus[static_cast<std::size_t>(index)];
  std::string names;
  for (const CudaGpu& gpu : gpus) names.append(names.empty() ? "" : ", ").append(gpu.name);
  throw Error(AR_ENGINE_UNAVAILABLE, "there is no such GPU here",
              {"cuda:" + std::to_string(index), names.empty() ? "no NVIDIA GPU, or no driver" : names, "",
               "run on a machine with an NVIDIA GPU and its driver (nvidia-smi shows both)"});
}

void cuda_zero(int index, void* memory, std::size_t bytes, const std::string& path) {
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  GetDevice get_device = nullptr;
  GetContext retain = nullptr;
  Push push = nullptr;
  Fill fill = nullptr;
  Wait wait = nullptr;
  Pop pop = nullptr;
  Release release = nullptr;
  int device = 0;
  Context context = nullptr;
  bool fine = library != nullptr && find(library, "cuDeviceGet", &get_device) &&
              find(library, "cuDevicePrimaryCtxRetain", &retain) && find(library, "cuCtxPushCurrent_v2", &push) &&
              find(library, "cuMemsetD8_v2", &fill) && find(library, "cuCtxSynchronize", &wait) &&
              find(library, "cuCtxPopCurrent_v2", &pop) && find(library, "cuDevicePrimaryCtxRelease_v2", &release) &&
              get_device(&device, index) == 0 && retain(&context, device) == 0;
  if (fine) {
    fine = push(context) == 0 && fill(reinterpret_cast<std::uintptr_t>(memory), 0, bytes) == 0 && wait() == 0;
    pop(&context);
    release(device);
  }
  if (!fine) {
    throw Error(AR_BACKEND_ERROR, "memory of the GPU cannot be filled",
                {"cuda:" + std::to_string(index), "", "", "update the driver"});
  }
}

Gpu read_gpu(int index, const fs::path& folder) {
  const std::string unknown = "cuda:" + std::to_string(index);
  const std::vector<fs::path> files = information_files(folder);
  if (index < 0 || static_cast<std::size_t>(index) >= files.size()) return {unknown, ""};
  const std::optional<std::string> facts = read_file(files[static_cast<std::size_t>(index)]);
  const std::optional<std::string> version = read_file(folder / "version");
  if (!facts || !version) return {unknown, ""};
  return {after(*facts, "Model:").value_or(unknown), version_in(after(*version, "Kernel Module").value_or(""))};
}

}  // namespace ar
