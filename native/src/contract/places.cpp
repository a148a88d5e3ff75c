#include "contract/places.hpp"

#include <dlfcn.h>
#include <pwd.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

namespace ar {
namespace {

namespace fs = std::filesystem;

std::optional<std::string> home() {
  if (const char* named = std::getenv("HOME")) return *named ? named : "/";
  std::vector<char> buffer(16384);
  passwd entry{}, *found = nullptr;
  if (getpwuid_r(getuid(), &entry, buffer.data(), buffer.size(), &found) != 0 || !found || !found->pw_dir)
    return std::nullopt;
  return found->pw_dir;
}

}  // namespace

fs::path file_of(const void* address) {
  Dl_info info{};
  if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) return {};
  std::error_code failed;
  fs::path real = fs::canonical(info.dli_fname, failed);
  return failed ? info.dli_fname : real;
}

fs::path own_folder() { return file_of(reinterpret_cast<const void*>(&own_folder)).parent_path(); }

std::optional<fs::path> cache_dir() {
  const char* configured = std::getenv("XDG_CACHE_HOME");
  if (configured && *configured == '/') return fs::path(configured) / "allrounder";
  const std::optional<std::string> place = home();
  if (!place) return std::nullopt;
  return fs::path(*place) / ".cache" / "allrounder";
}

}  // namespace ar
