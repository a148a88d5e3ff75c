// Latencies that count on this machine, for a bundle that was measured elsewhere or not at all; by the rules of
// runtime/local_latency.py, whose cache it shares: both languages choose by the same figures.
//
// What it knows: when figures count, the budget of time, the cache. What it does not know: how to choose.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "contract/bundle.hpp"
#include "contract/progress.hpp"
#include "runtime/options.hpp"

namespace ar {

inline constexpr double kLimitSeconds = 20;

struct LocalOptions {
  EngineOptions engine;
  bool with_text = true;  // measure with the tokenizer's prompt
  double limit_seconds = kLimitSeconds;
  Progress progress;
};

// Returns `entries` with latencies of this machine: the manifest's where they all are of it (and of fast weights), else
// the cached ones, else measured now, which is logged. Throws AR_ENGINE_UNAVAILABLE or AR_BACKEND_ERROR.
std::vector<Entry> with_local_latency(const OpenBundle& bundle, std::vector<Entry> entries,
                                      const LocalOptions& options);

// Returns the cache's file for these; nothing for a user without a cache. There is one machine per backend, in
// the order of their names.
std::optional<std::filesystem::path> latency_cache_file(const std::string& digest, const EngineOptions& options,
                                                        const std::vector<Machine>& machines);

// The cache's content: an entry's label -> its latency. Reading throws AR_BUNDLE_CORRUPT where it is none.
using LocalFigures = std::map<std::string, Latency>;
std::string encode_figures(const LocalFigures& figures);
LocalFigures decode_figures(const std::string& json, const std::string& where);

}  // namespace ar
