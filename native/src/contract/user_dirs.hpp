// Where allrounder keeps what it remembers per user; the same places as allrounder/userdirs.py.
#pragma once

#include <filesystem>
#include <optional>
#include <string_view>

namespace ar {

// Returns $XDG_CACHE_HOME/allrounder or ~/.cache/allrounder (HOME, else the password file), or nothing for a user
// without a home. A relative XDG_CACHE_HOME is ignored.
std::optional<std::filesystem::path> cache_dir();

// Writes a small file so that a reader meets the old content or the new one. Returns false where it cannot, and leaves
// nothing behind.
bool write_whole(const std::filesystem::path& path, std::string_view data) noexcept;

}  // namespace ar
