// Where files are: this library and its companions, and what allrounder keeps per user.
#pragma once

#include <filesystem>
#include <optional>

namespace ar {

// Returns the file that holds the code or data at an address, links resolved; empty where the loader does not know.
std::filesystem::path file_of(const void* address);

// Returns the folder of the library (or program) that this code is part of.
std::filesystem::path own_folder();

// Returns $XDG_CACHE_HOME/allrounder or ~/.cache/allrounder (HOME, else the password file), or nothing for a user
// without a home; the same place as allrounder/userdirs.py. A relative XDG_CACHE_HOME is ignored.
std::optional<std::filesystem::path> cache_dir();

}  // namespace ar
