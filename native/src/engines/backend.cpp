#include "engines/backend.hpp"

#include <algorithm>

#include "contract/error.hpp"

namespace ar {
namespace {

constexpr const Backend* kBackends[] = {&kOnnxRuntimeBackend, &kOpenVinoBackend, &kTensorRtBackend};

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

struct KindFacts {
  Kind kind;
  std::size_t bytes;
  const char* name;
};

constexpr KindFacts kKinds[] = {
    {Kind::kUint8, 1, "uint8"},     {Kind::kBool, 1, "bool"},       {Kind::kInt64, 8, "int64"},
    {Kind::kFloat32, 4, "float32"}, {Kind::kFloat16, 2, "float16"}, {Kind::kBfloat16, 2, "bfloat16"},
    {Kind::kOther, 0, "of a type that this runtime does not know"},
};

const KindFacts& facts_of(Kind kind) {
  return *std::find_if(std::begin(kKinds), std::end(kKinds),
                       [kind](const KindFacts& facts) { return facts.kind == kind; });
}

}  // namespace

std::size_t kind_bytes(Kind kind) { return facts_of(kind).bytes; }

const char* kind_name(Kind kind) { return facts_of(kind).name; }

const Backend& backend(const std::string& name) {
  if (const Backend* const wanted = found(name)) return *wanted;
  throw Error(AR_ENGINE_UNAVAILABLE, "this runtime cannot run engines of that backend",
              {"", quoted(name), known(), ""});
}

std::optional<std::string> why_not(const std::string& name, const EngineOptions& options) {
  try {
    return backend(name).why_not(options);
  } catch (const Error& error) {
    return error.what();
  }
}

void check_precision(const Entry& entry, const EngineOptions& options) {
  // ONNX Runtime 1.31's CPU provider multiplies no bfloat16 matrices.
  const bool lacking = entry.backend == kOnnxRuntime && entry.precision == "bf16";
  if (!lacking || !runs_on_cpu(entry.backend, options)) return;
  throw Error(AR_ENGINE_UNAVAILABLE, entry.backend + " does not compute in " + entry.precision + " on a CPU",
              {entry.label(), "device " + quoted(options.device), "a GPU (device \"cuda\")",
               "load it there, or build for the CPU: --precision fp32, or --backend openvino"});
}

std::optional<std::string> why_not(const Entry& entry, const EngineOptions& options) {
  if (std::optional<std::string> reason = why_not(entry.backend, options)) return reason;
  try {
    check_precision(entry, options);
  } catch (const Error& error) {
    return error.what();
  }
  return std::nullopt;
}

bool runs_on_cpu(const std::string& name, const EngineOptions& options) {
  const Backend* const known_one = found(name);
  return options.on_cpu() && (known_one == nullptr || !known_one->gpu_alone);
}

}  // namespace ar
