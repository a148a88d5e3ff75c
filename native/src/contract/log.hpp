// The log: what happened that no caller asked for.
#pragma once

#include <functional>
#include <string>

namespace ar {

enum class Level { kInfo = 0, kWarning = 1 };
using Log = std::function<void(Level level, const std::string& message)>;  // empty: nobody is told

inline void tell(const Log& log, Level level, const std::string& message) {
  if (log) log(level, message);
}

}  // namespace ar
