// Files of a manifest: safe names, what lies in a directory, and digests; the rules of allrounder/hashing.py.
//
// What it is: the rule that a listed path obeys, the listing of a directory that holds regular files only, and the
// hashing of many large files.
// What it knows: FileRecord, the file system. What it does not know: what a bundle is, and who trusts whom.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <system_error>

#include "contract/manifest.hpp"
#include "contract/progress.hpp"

struct stat;

namespace ar {

// What tells a file from itself after a change, without reading it.
struct FileStat {
  uint64_t device = 0;
  uint64_t inode = 0;
  int64_t size = 0;  // bytes
  int64_t mtime_ns = 0;
  int64_t ctime_ns = 0;  // unlike mtime, nobody can set it back
  bool operator==(const FileStat& other) const;
  static FileStat of(const struct stat& status);
};

using FileStats = std::map<std::string, FileStat>;

// Refuses a listed path that could mean anything but a plain file below its directory: absolute, leaving the
// directory, not normalised, or with unusual characters. Throws AR_BUNDLE_CORRUPT.
void check_path(const std::string& path, const std::string& where);

// Returns every file below `root` by its relative path with '/' between folders. Throws AR_BUNDLE_CORRUPT: a symbolic
// link or a special file stands in it; std::system_error: the directory cannot be read.
FileStats list_files(const std::filesystem::path& root);

// Throws AR_BUNDLE_CORRUPT: a path is unsafe, a file is missing or has another size.
void check_files(const std::filesystem::path& root, const std::map<std::string, FileRecord>& files,
                 const FileStats& found);

// Hashes files in full, two at a time, the largest first; check_files has passed. Returns those whose state in `found`
// still holds afterwards. Throws AR_BUNDLE_CORRUPT: a file has changed; std::system_error: a file cannot be read.
// `progress` is told in the caller's thread; what it throws ends the hashing.
std::set<std::string> verify_files(const std::filesystem::path& root, const std::map<std::string, FileRecord>& files,
                                   const FileStats& found, const Progress& progress);

// Throws AR_BUNDLE_CORRUPT for what stands at `path` and is neither a regular file nor a directory.
[[noreturn]] void refuse_special(const std::filesystem::path& path, bool link);

// Returns the error that errno says, about `path`.
std::system_error system_error(const std::filesystem::path& path);

}  // namespace ar
