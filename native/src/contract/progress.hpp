// Progress and log: how long work tells that it is alive, and what happened that no caller asked for.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace ar {

// progress("verifying (MiB)", 3, 64): step 3 of 64 is done. Empty: nobody is told.
using Progress = std::function<void(const std::string& task, int64_t done, int64_t total)>;

enum class Level { kInfo = 0, kWarning = 1 };
using Log = std::function<void(Level level, const std::string& message)>;

inline void tell(const Progress& progress, const std::string& task, int64_t done, int64_t total) {
  if (progress) progress(task, done, total);
}

inline void tell(const Log& log, Level level, const std::string& message) {
  if (log) log(level, message);
}

}  // namespace ar
