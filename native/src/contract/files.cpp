#include "contract/files.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <set>
#include <string_view>
#include <system_error>
#include <vector>

#include "contract/error.hpp"

namespace ar {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLongestPath = 1000, kLongestSegment = 200;
constexpr const char* kAgain = "copy or build the bundle again";

bool letter_or_digit(char byte) {
  return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') || byte == '_';
}

// Every segment begins with a letter, digit or underscore: so there is no "..", no ".", no hidden file, no empty
// segment, no backslash, no drive letter, and no name that another file system could not hold.
bool safe_segment(std::string_view segment) {
  return !segment.empty() && segment.size() <= kLongestSegment && letter_or_digit(segment[0]) &&
         std::all_of(segment.begin(), segment.end(),
                     [](char byte) { return letter_or_digit(byte) || byte == '.' || byte == '-'; });
}

std::vector<std::string_view> split(std::string_view path, const char* separators) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0;;) {
    const std::size_t end = path.find_first_of(separators, begin);
    parts.push_back(path.substr(begin, end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

bool safe(const std::string& path) {
  if (path.size() > kLongestPath) return false;
  const auto segments = split(path, "/");
  return std::all_of(segments.begin(), segments.end(), safe_segment);
}

bool absolute(const std::string& path) {
  const auto letter = [](char byte) { return letter_or_digit(byte) && (byte < '0' || byte > '9') && byte != '_'; };
  return (!path.empty() && (path[0] == '/' || path[0] == '\\')) ||
         (path.size() > 1 && path[1] == ':' && letter(path[0]));
}

std::system_error unreadable(const fs::path& path) {
  return {errno, std::generic_category(), quoted(path.string(), 1000)};
}

// Returns the status of a path, a link's own where it is one; nothing where there is nothing.
std::optional<struct stat> status_at(const fs::path& path) {
  struct stat status{};
  if (lstat(path.c_str(), &status) == 0) return status;
  if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
  throw unreadable(path);
}

[[noreturn]] void refuse(const fs::path& path, mode_t mode) {
  const char* what = S_ISLNK(mode) ? "a symbolic link" : S_ISDIR(mode) ? "a folder" : "a special file";
  throw Error(AR_BUNDLE_CORRUPT, std::string(what) + " is where only regular files may be",
              {quoted(path.string(), 1000), "", "", "put the file itself in its place, or build the bundle again"});
}

void check_file(const fs::path& path, int64_t bytes) {
  const auto found = status_at(path);
  if (!found) throw Error(AR_BUNDLE_CORRUPT, "a file is missing", {path.string(), "", "", kAgain});
  if (!S_ISREG(found->st_mode)) refuse(path, found->st_mode);
  if (found->st_size == bytes) return;
  throw Error(AR_BUNDLE_CORRUPT, found->st_size < bytes ? "a file is truncated" : "a file is too long",
              {path.string(), std::to_string(found->st_size) + " bytes", std::to_string(bytes) + " bytes", kAgain});
}

}  // namespace

void check_path(const std::string& path, const std::string& where) {
  if (safe(path)) return;
  const auto parts = split(path, "/\\");
  const bool leaves = std::find(parts.begin(), parts.end(), "..") != parts.end();
  const char* what = absolute(path) ? "a listed path is absolute"
                     : leaves       ? "a listed path leaves the bundle"
                                    : "a listed path is not safe";
  throw Error(AR_BUNDLE_CORRUPT, what,
              {where, quoted(path), "a relative path of letters, digits, '.', '_' and '-', with '/' between folders",
               "do not load this; build it again"});
}

void check_files(const fs::path& root, const std::map<std::string, int64_t>& files) {
  std::set<std::string> folders;
  for (const auto& [path, bytes] : files) {
    check_path(path, root.string());
    for (std::size_t end = path.find('/'); end != std::string::npos; end = path.find('/', end + 1)) {
      const auto [folder, is_new] = folders.insert(path.substr(0, end));
      const auto found = is_new ? status_at(root / *folder) : std::nullopt;
      if (found && S_ISLNK(found->st_mode)) refuse(root / *folder, found->st_mode);
    }
    check_file(root / path, bytes);
  }
}

std::optional<std::string> read_regular(const fs::path& path) {
  const auto found = status_at(path);
  if (!found) return std::nullopt;
  if (!S_ISREG(found->st_mode)) refuse(path, found->st_mode);
  std::optional<std::string> data = read_file(path);
  if (!data && errno != ENOENT) throw unreadable(path);  // else it went just now
  return data;
}

std::optional<std::string> read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

}  // namespace ar
