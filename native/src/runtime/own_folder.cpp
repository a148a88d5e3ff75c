#include "runtime/own_folder.hpp"

#include <dlfcn.h>

namespace ar {

namespace fs = std::filesystem;

fs::path file_of(const void* address) {
  Dl_info info{};
  if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) return {};
  std::error_code failed;
  fs::path real = fs::canonical(info.dli_fname, failed);
  return failed ? info.dli_fname : real;
}

fs::path own_folder() { return file_of(reinterpret_cast<const void*>(&own_folder)).parent_path(); }

}  // namespace ar
