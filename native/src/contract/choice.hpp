// The choice of an engine by latency target: the same pure function as runtime/choice.py.
//
// What it is: the total order "most faithful", and the first in it that meets a target, so that a looser target never
// gives a less faithful entry.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "contract/manifest.hpp"

namespace ar {

struct LatencyTarget {
  std::optional<double> ttft_ms;  // image in to first token out
  std::optional<double> tpot_ms;  // per further token
  int percentile = 95;            // 50, 95 or 99

  void check() const;        // throws AR_INPUT_INVALID: no figure, no positive finite number, another percentile
  std::string text() const;  // "ttft <= 40 ms and tpot <= 2 ms at p95"
};

// Returns the indices of `entries`, most faithful first; the total order of runtime/choice.py.
std::vector<std::size_t> by_faithfulness(const std::vector<Entry>& entries);

// Returns the entries with their figures at the target's percentile, most faithful first, as plain text; entries that
// were not measured on `machine` (null: anywhere) say so.
std::string latency_table(const std::vector<Entry>& entries, const LatencyTarget& target, const Machine* machine);

// Returns the index of the most faithful entry that meets `target` (none: of all). `machine` null takes figures as they
// are. `fastest` takes the entry nearest to the target where none meets it. Throws AR_NO_ENGINE_MEETS_TARGET.
std::size_t choose(const std::vector<Entry>& entries, const std::optional<LatencyTarget>& target,
                   const Machine* machine = nullptr, bool fastest = false);

}  // namespace ar
