// TensorRT plans by name: what a plan was built with, known before TensorRT reads it; the rule of
// engines/tensorrt/plan_names.py.
//
// What it is: the rule of a plan's file name, the oldest TensorRT that is supported, and the check of one against the
// other.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace ar {

inline constexpr const char* kPlan = ".plan";

struct PlanTarget {
  std::vector<int64_t> version;  // TensorRT's: major, minor, ...
  int64_t sm = 0;                // compute capability, 90 for 9.0
  bool newer = false;            // newer minor versions of TensorRT run it too
  bool ampere = false;           // every architecture from SM 80 on runs it
  bool plugin = false;           // the gather op in it is the plugin
};

// Returns the numbers of a TensorRT version, up to four of them: "10.16.1.11" gives 10, 16, 1, 11. Throws
// AR_ENGINE_UNAVAILABLE: no such version, or one that is too old.
std::vector<int64_t> parse_tensorrt_version(const std::string& text);

// Returns what a plan of that name was built with, or nothing where the name does not say.
std::optional<PlanTarget> read_plan_target(const std::string& name);

// Returns the target of a plan that this TensorRT and this GPU can run. Throws AR_ENGINE_UNAVAILABLE: they cannot, or
// the name does not say what the plan was built with.
PlanTarget check_plan_target(const std::string& name, const std::vector<int64_t>& version, int64_t sm);

}  // namespace ar
