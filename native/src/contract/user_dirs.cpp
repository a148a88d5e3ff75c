#include "contract/user_dirs.hpp"

#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
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

// Makes a directory and its missing parents, for this user alone.
bool make_private(const fs::path& folder) {
  if (folder.empty() || mkdir(folder.c_str(), 0700) == 0) return true;
  if (errno == EEXIST) return true;  // where it is no directory, the write below it fails
  return errno == ENOENT && folder.has_relative_path() && make_private(folder.parent_path()) &&
         (mkdir(folder.c_str(), 0700) == 0 || errno == EEXIST);
}

bool write_all(int handle, std::string_view data) {
  while (!data.empty()) {
    const ssize_t written = write(handle, data.data(), data.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    data.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

}  // namespace

std::optional<fs::path> cache_dir() {
  const char* configured = std::getenv("XDG_CACHE_HOME");
  if (configured && *configured == '/') return fs::path(configured) / "allrounder";
  const std::optional<std::string> place = home();
  if (!place) return std::nullopt;
  return fs::path(*place) / ".cache" / "allrounder";
}

bool write_whole(const fs::path& path, std::string_view data) noexcept try {
  if (!make_private(path.parent_path())) return false;
  std::string name = (path.parent_path() / ("." + path.filename().string() + ".XXXXXX")).string();
  const int handle = mkstemp(name.data());
  if (handle < 0) return false;
  const bool written = write_all(handle, data);
  const bool closed = close(handle) == 0;
  if (written && closed && std::rename(name.c_str(), path.c_str()) == 0) return true;
  unlink(name.c_str());
  return false;
} catch (...) {
  return false;  // out of memory for a path: nothing was created yet
}

}  // namespace ar
