// allrounder-native inspect: a bundle as a table of its entries; the last line is its facts as JSON.
#include <cstdio>
#include <iostream>

#include "arguments.hpp"
#include "commands.hpp"

namespace tool {
namespace {

std::string milliseconds(const Json& latency, const char* name) {
  if (latency.is_null()) return "-";
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", latency.at(name).at("p95").get<double>());
  return text;
}

std::string divergence(const Json& fidelity) {
  if (fidelity.is_null()) return "-";
  char text[32];
  std::snprintf(text, sizeof text, "%.4f", fidelity.at("kl").at("mean").get<double>());
  return text;
}

void print(const Json& entry) {
  const Json& pruning = entry.at("pruning");
  const auto text = [](const Json& object, const char* key) { return object.at(key).get<std::string>(); };
  std::printf("%-12s %-12s %-9s %-7s %2lld %6s %6lld %10s %10s %8s\n", text(pruning, "version").c_str(),
              text(entry, "backend").c_str(), text(entry, "precision").c_str(), text(pruning, "layer_policy").c_str(),
              pruning.at("prune_layer").get<long long>(), text(pruning, "keep").c_str(),
              pruning.at("layers").get<long long>(), milliseconds(entry.at("latency"), "ttft_ms").c_str(),
              milliseconds(entry.at("latency"), "tpot_ms").c_str(), divergence(entry.at("fidelity")).c_str());
}

}  // namespace

void inspect(const Line& line) {
  const Arguments arguments(line, {"BUNDLE"}, {}, {});
  const Json whole = Json::parse(allrounder::Bundle::open(arguments.word(0)).manifest());
  std::printf("%-12s %-12s %-9s %-7s %2s %6s %6s %10s %10s %8s\n", "version", "backend", "precision", "policy", "K",
              "keep", "layers", "ttft p95", "tpot p95", "kl");
  for (const Json& entry : whole.at("entries")) print(entry);
  std::fflush(stdout);
  Json facts = {{"bundle", arguments.word(0)}};
  for (const char* key : {"schema", "producer", "model", "limits", "entries"}) facts[key] = whole.at(key);
  std::cout << tool::line(facts) << "\n";
}

}  // namespace tool
