// Memory: do engines fit side by side, before the system finds out; the estimate of runtime/memory.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "contract/bundle.hpp"
#include "runtime/options.hpp"

namespace ar {

// Whether these entries can be open at once; true where the system does not tell its free memory.
bool fits(const OpenBundle& bundle, const std::vector<Entry>& entries, const EngineOptions& options);

// Returns about how many bytes these entries hold for themselves when they are open at once.
double needed_bytes(const Manifest& manifest, const std::vector<Entry>& entries, const EngineOptions& options);

// Returns the memory that is free for new work, or nothing where the system does not say.
std::optional<int64_t> available_bytes(const std::filesystem::path& meminfo = "/proc/meminfo");

}  // namespace ar
