#include "engines/tensorrt/plans.hpp"

#include <algorithm>
#include <string_view>

#include "contract/error.hpp"

namespace ar {
namespace {

using Version = std::vector<int64_t>;

const Version kOldest = {10, 15};
constexpr int64_t kAmpere = 80;
constexpr std::size_t kMostNumbers = 4, kMostDigits = 9;  // of a version, and of a number: no more is ever written
constexpr const char* kAgain = "build it again here: allrounder build --backend tensorrt --force";

// Reads a text from its front.
struct Reader {
  std::string_view rest;

  bool take(std::string_view mark) {
    if (rest.substr(0, mark.size()) != mark) return false;
    rest.remove_prefix(mark.size());
    return true;
  }
  std::optional<int64_t> number() {
    const std::size_t length = std::min(rest.find_first_not_of("0123456789"), rest.size());
    if (length < 1 || length > kMostDigits) return std::nullopt;
    const int64_t value = std::stoll(std::string(rest.substr(0, length)));
    rest.remove_prefix(length);
    return value;
  }
  // Up to four numbers with points between them; what is no part of them stays.
  Version version() {
    Version found;
    while (found.size() < kMostNumbers) {
      Reader ahead = *this;
      const bool goes_on = found.empty() || ahead.take(".");
      const std::optional<int64_t> next = goes_on ? ahead.number() : std::nullopt;
      if (!next) break;
      found.push_back(*next);
      *this = ahead;
    }
    return found;
  }
};

std::string dotted(const Version& version) {
  std::string text;
  for (const int64_t number : version) text.append(text.empty() ? "" : ".").append(std::to_string(number));
  return text;
}

// Returns major and minor.
Version series(const Version& version) {
  return {version.begin(), version.begin() + std::min<std::ptrdiff_t>(2, version.end() - version.begin())};
}

void check_version(const std::string& name, const PlanTarget& target, const Version& version) {
  const Version built = series(target.version), here = series(version);
  if (here == built || (target.newer && here.front() == built.front() && here > built)) return;
  const std::string major = std::to_string(built.front());
  throw Error(AR_ENGINE_UNAVAILABLE, "this plan was built with another TensorRT",
              {name, "TensorRT " + dotted(version) + " here",
               "TensorRT " + dotted(built) + (target.newer ? " or a newer " + major + ".x" : ""),
               std::string(kAgain) + "; or pip install 'tensorrt==" + dotted(built) + ".*'"});
}

void check_architecture(const std::string& name, const PlanTarget& target, int64_t sm) {
  if (sm == target.sm || (target.ampere && sm >= kAmpere)) return;
  throw Error(AR_ENGINE_UNAVAILABLE, "this plan was built for another GPU architecture",
              {name, "SM " + std::to_string(sm) + " here",
               target.ampere ? "SM " + std::to_string(kAmpere) + " or later" : "SM " + std::to_string(target.sm),
               kAgain});
}

}  // namespace

std::vector<int64_t> parse_tensorrt_version(const std::string& text) {
  Version version = Reader{text}.version();
  if (version.size() > 1 && series(version) >= kOldest) return version;
  throw Error(AR_ENGINE_UNAVAILABLE, "this TensorRT is too old",
              {"", "tensorrt " + text,
               "tensorrt " + dotted(kOldest) +
                   " or newer, the first whose ONNX parser reads TensorScatter, RotaryEmbedding and RMSNormalization, "
                   "which every decoder graph holds",
               "pip install -U tensorrt"});
}

std::optional<PlanTarget> read_plan_target(const std::string& name) {
  const std::size_t start = name.rfind("-trt");
  if (start == std::string::npos) return std::nullopt;
  Reader reader{std::string_view(name).substr(start)};
  PlanTarget target;
  reader.take("-trt");
  target.version = reader.version();
  if (target.version.size() < 2 || !reader.take("-sm")) return std::nullopt;
  const std::optional<int64_t> sm = reader.number();
  if (!sm) return std::nullopt;
  target.sm = *sm;
  target.newer = reader.take("-newer");
  target.ampere = reader.take("-ampere");
  target.plugin = reader.take("-plugin");
  return reader.rest == kPlan ? std::optional(target) : std::nullopt;
}

PlanTarget check_plan_target(const std::string& name, const std::vector<int64_t>& version, int64_t sm) {
  const std::optional<PlanTarget> target = read_plan_target(name);
  if (!target) {
    throw Error(AR_ENGINE_UNAVAILABLE, "nothing says what this plan was built with", {name, "", "", kAgain});
  }
  check_version(name, *target, version);
  check_architecture(name, *target, sm);
  return *target;
}

}  // namespace ar
