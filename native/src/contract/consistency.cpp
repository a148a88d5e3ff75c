// What a manifest must be to make sense as a whole: unique keys, possible pruning, graphs that are listed.
#include <algorithm>
#include <functional>

#include "contract/error.hpp"
#include "contract/manifest.hpp"

namespace ar {
namespace {

[[noreturn]] void refuse(const std::string& what, const Facts& facts) { throw Error(AR_BUNDLE_CORRUPT, what, facts); }

void check_budget(const char* what, int64_t value, int64_t low, int64_t high, const std::string& place) {
  if (low <= value && value <= high) return;
  const std::string facts = std::string(what) + " " + std::to_string(value);
  refuse("an entry has an impossible budget", {place, facts, std::to_string(low) + " to " + std::to_string(high), ""});
}

void check_kept_layers(const Pruning& pruning, const Model& model, const std::string& place) {
  if (pruning.dynamic()) {
    if (pruning.kept_layers) refuse("dynamic layers are chosen per input and are not listed", {place, "", "", ""});
    return;
  }
  const std::string count = std::to_string(pruning.layers);
  if (!pruning.kept_layers) refuse("static layers are not listed", {place, "", count + " layers", ""});
  const std::vector<int64_t>& kept = *pruning.kept_layers;
  const bool complete = static_cast<int64_t>(kept.size()) == pruning.layers &&
                        std::adjacent_find(kept.begin(), kept.end(), std::greater_equal<>()) == kept.end() &&
                        kept.back() < model.layers;
  // Ascending from 0 or more: the first K are 0 to K-1 where the K-th is K-1.
  const auto below = static_cast<std::size_t>(pruning.prune_layer);
  if (complete && (below == 0 || kept[below - 1] == pruning.prune_layer - 1)) return;
  refuse("the kept layers contradict the budget",
         {place, std::to_string(kept.size()) + " layers",
          count + " of layers 0 to " + std::to_string(model.layers - 1) + ", ascending, all below " +
              std::to_string(pruning.prune_layer) + " among them",
          ""});
}

std::string shown(const Keep& keep) {
  return std::to_string(keep.numerator) + (keep.denominator > 1 ? "/" + std::to_string(keep.denominator) : "");
}

void check_pruning(const Pruning& pruning, const Model& model, const std::string& place) {
  const Keep& keep = pruning.keep;
  if (keep.denominator > 1 && keep.numerator > keep.denominator) {
    refuse("an entry has an impossible keep rule", {place, shown(keep), "a share up to 1, or a count from 2 on", ""});
  }
  check_budget("prune layer", pruning.prune_layer, 0, model.layers - 1, place);
  check_budget("decoder layers", pruning.layers, std::max<int64_t>(pruning.prune_layer, 1), model.layers, place);
  const bool whole = keep.everything() && pruning.layers == model.layers;
  if (pruning.version == kFull && (!whole || pruning.dynamic())) {
    refuse("full keeps everything and is static",
           {place, shown(keep) + "/" + std::to_string(pruning.layers) + ", " + pruning.layer_policy,
            "1/" + std::to_string(model.layers) + ", static", ""});
  }
  check_kept_layers(pruning, model, place);
}

void check_router(const Entry& entry, const Model& model, const std::string& place) {
  const bool routes = !entry.pruning.keep.everything() || entry.pruning.dynamic();
  if (routes && !entry.graphs.router) refuse("an entry that routes has no router graph", {place, "", "", ""});
  if (entry.graphs.router && !model.router)
    refuse("a router graph without a router in `model`", {place, quoted(*entry.graphs.router), "", ""});
}

void check_listed(const EntryGraphs& graphs, const std::map<std::string, int64_t>& files, const std::string& place) {
  std::vector<std::string> paths = {graphs.vision, graphs.decoder};
  if (graphs.router) paths.push_back(*graphs.router);
  for (const std::string& path : paths) {
    if (files.count(path) == 0) refuse("a graph is not among the listed files", {place, quoted(path), "", ""});
  }
}

}  // namespace

void check_manifest(const Manifest& manifest, const std::string& where) {
  if (manifest.entries.empty()) refuse("the manifest has no entry", {where, "", "", "build the bundle again"});
  images::check_image_plan(manifest.model.images, where);
  std::map<Entry::Key, int> count;
  for (const Entry& entry : manifest.entries) ++count[entry.key()];
  for (const Entry& entry : manifest.entries) {
    const std::string place = where + ", entry " + quoted(entry.label());
    if (count[entry.key()] > 1) refuse("an entry is twice in the manifest", {place, "", "", ""});
    check_pruning(entry.pruning, manifest.model, place);
    check_router(entry, manifest.model, place);
    check_listed(entry.graphs, manifest.files, place);
  }
}

}  // namespace ar
