#include "contract/user_dirs.hpp"

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

std::optional<fs::path> cache_dir() {
  const char* configured = std::getenv("XDG_CACHE_HOME");
  if (configured && *configured == '/') return fs::path(configured) / "allrounder";
  const std::optional<std::string> place = home();
  if (!place) return std::nullopt;
  return fs::path(*place) / ".cache" / "allrounder";
}

}  // namespace ar
