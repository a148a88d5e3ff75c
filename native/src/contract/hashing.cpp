#include "contract/hashing.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <tuple>

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

using Directory = std::unique_ptr<DIR, int (*)(DIR*)>;

// Wraps for years beyond 2262, which a file may claim: it is compared and nothing else.
int64_t nanoseconds(const timespec& time) {
  return static_cast<int64_t>(static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec));
}

// Adds the files of one folder to `found` and its folders to `folders`.
void list_folder(const fs::path& root, const std::string& folder, FileStats& found, std::vector<std::string>& folders) {
  const Directory directory(opendir((root / folder).c_str()), closedir);
  if (!directory) throw system_error(root / folder);
  for (errno = 0; const dirent* entry = readdir(directory.get()); errno = 0) {
    const std::string leaf = entry->d_name;
    if (leaf == "." || leaf == "..") continue;
    const std::string name = folder + leaf;
    struct stat status{};
    if (fstatat(dirfd(directory.get()), leaf.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0)
      throw system_error(root / name);
    if (S_ISDIR(status.st_mode)) {
      folders.push_back(name + "/");
    } else if (S_ISREG(status.st_mode)) {
      found.emplace(name, FileStat::of(status));
    } else {
      refuse_special(root / name, S_ISLNK(status.st_mode));
    }
  }
  if (errno != 0) throw system_error(root / folder);
}

}  // namespace

bool FileStat::operator==(const FileStat& other) const {
  return std::tie(device, inode, size, mtime_ns, ctime_ns) ==
         std::tie(other.device, other.inode, other.size, other.mtime_ns, other.ctime_ns);
}

FileStat FileStat::of(const struct stat& status) {
  return {status.st_dev, status.st_ino, status.st_size, nanoseconds(status.st_mtim), nanoseconds(status.st_ctim)};
}

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

FileStats list_files(const fs::path& root) {
  FileStats found;
  std::vector<std::string> folders = {""};
  while (!folders.empty()) {
    const std::string folder = std::move(folders.back());
    folders.pop_back();
    list_folder(root, folder, found, folders);
  }
  return found;
}

void refuse_special(const fs::path& path, bool link) {
  throw Error(AR_BUNDLE_CORRUPT,
              std::string(link ? "a symbolic link" : "a special file") + " stands where only regular files may",
              {quoted(path.string(), 1000), "", "", "put the file itself in its place, or build the bundle again"});
}

std::system_error system_error(const fs::path& path) {
  return {errno, std::generic_category(), quoted(path.string(), 1000)};
}

void check_files(const fs::path& root, const std::map<std::string, FileRecord>& files, const FileStats& found) {
  for (const auto& [path, record] : files) {
    check_path(path, root.string());
    const auto seen = found.find(path);
    if (seen == found.end())
      throw Error(AR_BUNDLE_CORRUPT, "a file is missing", {(root / path).string(), "", "", kAgain});
    if (seen->second.size == record.bytes) continue;
    throw Error(AR_BUNDLE_CORRUPT, seen->second.size < record.bytes ? "a file is truncated" : "a file is too long",
                {(root / path).string(), std::to_string(seen->second.size) + " bytes",
                 std::to_string(record.bytes) + " bytes", kAgain});
  }
}

}  // namespace ar
