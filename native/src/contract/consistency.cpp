#include "contract/consistency.hpp"

#include <algorithm>
#include <functional>

#include "contract/error.hpp"

namespace ar {
namespace {

[[noreturn]] void refuse(const std::string& what, const Facts& facts) { throw Error(AR_BUNDLE_CORRUPT, what, facts); }

void check_budget(const char* what, int64_t value, int64_t low, int64_t high, const std::string& place) {
  if (low <= value && value <= high) return;
  const std::string facts = std::string(what) + " " + std::to_string(value);
  refuse("an entry has an impossible budget", {place, facts, std::to_string(low) + " to " + std::to_string(high), ""});
}

void check_plan(const Entry& entry, const Model& model, const std::string& place) {
  if (entry.layer_policy == "routed") {
    if (entry.layer_plan)
      refuse("a routed entry chooses its layers per input and has no layer plan", {place, "", "", ""});
    return;
  }
  const std::string count = std::to_string(entry.layers);
  if (!entry.layer_plan) refuse("a frozen entry has no layer plan", {place, "", count + " layers", ""});
  const std::vector<int64_t>& plan = *entry.layer_plan;
  const bool complete = static_cast<int64_t>(plan.size()) == entry.layers &&
                        std::adjacent_find(plan.begin(), plan.end(), std::greater_equal<>()) == plan.end() &&
                        plan.back() < model.layers;
  // Ascending from 0 or more: the first K are 0 to K-1 where the K-th is K-1.
  const auto gather = static_cast<std::size_t>(entry.gather_layer);
  if (complete && (gather == 0 || plan[gather - 1] == entry.gather_layer - 1)) return;
  refuse("a layer plan contradicts its entry",
         {place, std::to_string(plan.size()) + " layers",
          count + " of the layers 0 to " + std::to_string(model.layers - 1) + ", ascending, from 0 to " +
              std::to_string(entry.gather_layer - 1) + " all",
          ""});
}

void check_flow(const Entry& entry, const Model& model, const std::string& place) {
  check_budget("gather layer", entry.gather_layer, 0, model.layers - 1, place);
  check_budget("visual tokens", entry.tokens, 1, model.visual_tokens, place);
  check_budget("decoder layers", entry.layers, std::max<int64_t>(entry.gather_layer, 1), model.layers, place);
  const bool whole = entry.tokens == model.visual_tokens && entry.layers == model.layers;
  if (entry.version == kFull && !(whole && entry.layer_policy == "frozen")) {
    refuse("full keeps everything and is frozen",
           {place, std::to_string(entry.tokens) + "/" + std::to_string(entry.layers) + ", " + entry.layer_policy,
            std::to_string(model.visual_tokens) + "/" + std::to_string(model.layers) + ", frozen", ""});
  }
  check_plan(entry, model, place);
}

void check_router(const Entry& entry, const Model& model, const std::string& place) {
  const bool routes = entry.tokens < model.visual_tokens || entry.layer_policy == "routed";
  if (routes && !entry.graphs.router) refuse("an entry that routes has no router graph", {place, "", "", ""});
  if (entry.graphs.router && !model.router)
    refuse("a router graph without a router in `model`", {place, quoted(*entry.graphs.router), "", ""});
}

void check_listed(const EntryGraphs& graphs, const std::map<std::string, FileRecord>& files, const std::string& place) {
  std::vector<std::string> paths = {graphs.preprocess, graphs.vision, graphs.prefill, graphs.decode};
  if (graphs.router) paths.push_back(*graphs.router);
  for (const std::string& path : paths) {
    if (files.count(path) == 0) refuse("a graph is not among the listed files", {place, quoted(path), "", ""});
  }
}

}  // namespace

void check_manifest(const Manifest& manifest, const std::string& where) {
  const bool bf16 = std::any_of(manifest.entries.begin(), manifest.entries.end(),
                                [](const Entry& entry) { return entry.precision == "bf16"; });
  if (bf16 && manifest.schema < kBf16Schema) {
    refuse("the schema is older than what the manifest holds",
           {where, "schema " + std::to_string(manifest.schema), std::to_string(kBf16Schema), ""});
  }
  if (manifest.entries.empty()) refuse("the manifest has no entry", {where, "", "", "build the bundle again"});
  std::map<Entry::Key, int> count;
  for (const Entry& entry : manifest.entries) ++count[entry.key()];
  for (const Entry& entry : manifest.entries) {
    const std::string place = where + ", entry " + quoted(entry.label());
    if (count[entry.key()] > 1) refuse("an entry stands twice in the manifest", {place, "", "", ""});
    check_flow(entry, manifest.model, place);
    check_router(entry, manifest.model, place);
    check_listed(entry.graphs, manifest.files, place);
  }
}

}  // namespace ar
