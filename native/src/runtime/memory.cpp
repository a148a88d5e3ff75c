#include "runtime/memory.hpp"

#include <fstream>
#include <string>

#include "runtime/backend.hpp"

namespace ar {
namespace {

// Copies of the weights that one engine holds, measured with ONNX Runtime 1.31.1: packed once for prefill and once for
// decode; fp16 on a CPU is turned into fp32 in both sessions, which makes four times its size; shared ones are mapped.
constexpr int kFast = 2, kWidened = 4;
constexpr double kShare = 0.7;  // of what is free: activations, caches and other processes need memory too

int copies(const Entry& entry, const EngineOptions& options) {
  if (options.on_cpu() && !runs_on_cpu(entry.backend, options)) return 0;  // its weights lie on the GPU
  if (options.on_cpu() && entry.precision == "fp16") return kWidened;
  return options.weights == Weights::kFast ? kFast : 0;
}

double weights(const Manifest& manifest, const Entry& entry) {
  double sum = 0;
  for (const auto& [path, record] : manifest.files) {
    const bool is_weights = path.rfind("graphs/weights/", 0) == 0;
    if (is_weights && path.find("-" + entry.precision + "-") != std::string::npos)
      sum += static_cast<double>(record.bytes);
  }
  return sum;
}

}  // namespace

double needed_bytes(const Manifest& manifest, const std::vector<Entry>& entries, const EngineOptions& options) {
  double sum = 0;
  for (const Entry& entry : entries) sum += copies(entry, options) * weights(manifest, entry);
  return sum;
}

bool fits(const OpenBundle& bundle, const std::vector<Entry>& entries, const EngineOptions& options) {
  const std::optional<int64_t> available = available_bytes();
  return !available || needed_bytes(bundle.manifest, entries, options) < kShare * static_cast<double>(*available);
}

std::optional<int64_t> available_bytes(const std::filesystem::path& meminfo) {
  std::ifstream lines(meminfo);
  std::string name, unit;
  for (int64_t kibibytes = 0; lines >> name >> kibibytes; std::getline(lines, unit)) {
    if (name == "MemAvailable:") return kibibytes * 1024;
  }
  return std::nullopt;
}

}  // namespace ar
