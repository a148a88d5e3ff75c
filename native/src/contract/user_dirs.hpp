// Where allrounder keeps what it remembers per user; the same place as allrounder/userdirs.py.
#pragma once

#include <filesystem>
#include <optional>

namespace ar {

// Returns $XDG_CACHE_HOME/allrounder or ~/.cache/allrounder (HOME, else the password file), or nothing for a user
// without a home. A relative XDG_CACHE_HOME is ignored.
std::optional<std::filesystem::path> cache_dir();

}  // namespace ar
