#include "runtime/gpus.hpp"

#include <dlfcn.h>

#include <array>

#include "contract/error.hpp"

namespace ar {
namespace {

// The driver's interface is C and stable: these are its declarations, so that its headers need not be there.
using Init = int (*)(unsigned flags);
using GetInt = int (*)(int* value);
using GetDevice = int (*)(int* device, int index);
using GetName = int (*)(char* name, int size, int device);
using GetAttribute = int (*)(int* value, int attribute, int device);

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

}  // namespace ar
