// allrounder-native inspect: a bundle, verified, as a table of its entries; the last line is its facts as JSON.
#include <cstdio>
#include <iostream>

#include "arguments.hpp"
#include "commands.hpp"
#include "report.hpp"

namespace tool {
namespace {

using Json = nlohmann::ordered_json;

struct Freed {
  void operator()(ar_bundle* bundle) const { ar_bundle_free(bundle); }
};

std::string manifest(const std::string& path) {
  std::unique_ptr<ar_bundle, Freed> bundle;
  allrounder::detail::checked([&] {
    ar_bundle* opened = nullptr;
    ar_error* error = ar_bundle_open(path.c_str(), nullptr, nullptr, &opened);
    bundle.reset(opened);
    return error;
  });
  return ar_bundle_manifest(bundle.get());
}

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
  const auto text = [&entry](const char* key) { return entry.at(key).get<std::string>(); };
  std::printf("%-12s %-12s %-9s %-7s %2lld %6lld %6lld %10s %10s %8s\n", text("version").c_str(),
              text("backend").c_str(), text("precision").c_str(), text("layer_policy").c_str(),
              entry.at("gather_layer").get<long long>(), entry.at("tokens").get<long long>(),
              entry.at("layers").get<long long>(), milliseconds(entry.at("latency"), "ttft_ms").c_str(),
              milliseconds(entry.at("latency"), "tpot_ms").c_str(), divergence(entry.at("fidelity")).c_str());
}

}  // namespace

void inspect(const Line& line) {
  const Arguments arguments(line, {"BUNDLE"}, {}, {});
  const Json whole = Json::parse(manifest(arguments.word(0)));
  std::printf("%-12s %-12s %-9s %-7s %2s %6s %6s %10s %10s %8s\n", "version", "backend", "precision", "policy", "K",
              "tokens", "layers", "ttft p95", "tpot p95", "kl");
  for (const Json& entry : whole.at("entries")) print(entry);
  std::fflush(stdout);
  Json facts = {{"bundle", arguments.word(0)}};
  for (const char* key : {"schema", "producer", "model", "limits", "entries"}) facts[key] = whole.at(key);
  std::cout << tool::line(facts) << "\n";
}

}  // namespace tool
