// Files of a manifest: safe names, and what is there; the rules of allrounder/hashing.py, but for the hashing.
//
// What it is: the rule that a listed path obeys, and the check that every listed file is there in its full length.
// What is in a file is not checked here: `allrounder verify` does that.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

namespace ar {

// Refuses a listed path that could mean anything but a plain file below its directory: absolute, leaving the
// directory, not normalised, or with unusual characters. Throws AR_BUNDLE_CORRUPT.
void check_path(const std::string& path, const std::string& where);

// `files` are sizes by path. Throws AR_BUNDLE_CORRUPT: a path is unsafe; a file is missing, has another size, or is no
// regular file, a link on the way to it included. Throws std::system_error: the system does not say.
void check_files(const std::filesystem::path& root, const std::map<std::string, int64_t>& files);

// Returns what a regular file holds, or nothing where there is none. Throws AR_BUNDLE_CORRUPT: something else is
// there, as a link or a pipe; std::system_error: it cannot be read.
std::optional<std::string> read_regular(const std::filesystem::path& path);

// Returns what a file holds, or nothing where it cannot be read.
std::optional<std::string> read_file(const std::filesystem::path& path);

}  // namespace ar
