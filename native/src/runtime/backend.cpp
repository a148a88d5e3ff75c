#include "runtime/backend.hpp"

#include <algorithm>

#include "contract/error.hpp"

namespace ar {
namespace {

constexpr const Backend* kBackends[] = {&kOnnxRuntimeBackend};

const Backend* found(const std::string& name) {
  const auto* each = std::find_if(std::begin(kBackends), std::end(kBackends),
                                  [&](const Backend* backend) { return name == backend->name; });
  return each == std::end(kBackends) ? nullptr : *each;
}

std::string known() {
  std::string names;
  for (const Backend* each : kBackends) names.append(names.empty() ? "one of " : ", ").append(each->name);
  return names;
}

}  // namespace

const Backend& backend(const std::string& name) {
  if (const Backend* const wanted = found(name)) return *wanted;
  throw Error(AR_ENGINE_UNAVAILABLE, "this runtime cannot run engines of that backend",
              {"", quoted(name), known(), ""});
}

std::optional<std::string> why_not(const std::string& name) {
  try {
    return backend(name).why_not();
  } catch (const Error& error) {
    return error.what();
  }
}

bool runs_on_cpu(const std::string& name, const EngineOptions& options) {
  const Backend* const known_one = found(name);
  return options.on_cpu() && (known_one == nullptr || !known_one->gpu_alone);
}

}  // namespace ar
