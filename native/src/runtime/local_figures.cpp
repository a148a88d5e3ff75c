// The cache of local latencies as JSON, byte for byte as Python names and close enough to read as Python writes it.
#include <nlohmann/json.hpp>

#include "contract/error.hpp"
#include "contract/sha256.hpp"
#include "contract/user_dirs.hpp"
#include "runtime/local_latency.hpp"

namespace ar {
namespace {

constexpr const char* kLatencies = "latencies";

[[noreturn]] void refuse(const std::string& where, const std::string& got) {
  throw Error(AR_BUNDLE_CORRUPT, "these are no cached latencies", {where, got, "", ""});
}

}  // namespace

std::optional<std::filesystem::path> latency_cache_file(const std::string& digest, const EngineOptions& options,
                                                        const std::vector<Machine>& machines) {
  const std::optional<std::filesystem::path> folder = cache_dir();
  if (!folder) return std::nullopt;
  // Python's msgspec.json.encode([digest, weights, device, machines]); none of the texts holds what JSON escapes.
  std::string key = "[\"" + digest + "\",\"" + weights_name(options.weights) + "\",\"" + options.device + "\",[";
  const char* comma = "";
  for (const Machine& machine : machines) {
    key.append(comma).append(encode_machine(machine));
    comma = ",";
  }
  key += "]]";
  return *folder / "latency" / (sha256_hex(key) + ".json");
}

std::string encode_figures(const LocalFigures& figures) {
  std::string json = std::string("{\"") + kLatencies + "\":{";
  const char* comma = "";
  for (const auto& [label, latency] : figures) {
    json.append(comma).append(nlohmann::json(label).dump()).append(":").append(encode_latency(latency));
    comma = ",";
  }
  return json + "}}";
}

LocalFigures decode_figures(const std::string& json, const std::string& where) {
  const nlohmann::json whole = nlohmann::json::parse(json, nullptr, false);
  if (!whole.is_object() || whole.size() != 1 || !whole.contains(kLatencies) || !whole[kLatencies].is_object()) {
    refuse(where, quoted(json, 60));
  }
  LocalFigures figures;
  for (const auto& [label, latency] : whole[kLatencies].items()) figures[label] = decode_latency(latency.dump(), where);
  return figures;
}

}  // namespace ar
