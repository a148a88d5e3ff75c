// Entries that contradict their manifest; the list is that of tests/allrounder/test_manifest.py.
#include "contract/manifest.hpp"

#include "scratch.hpp"

namespace {

using scratch::golden;
using scratch::Plain;
using scratch::refused;

TEST(Consistency, TheGoldenManifestMakesSense) {
  ar::check_manifest(ar::decode_manifest(scratch::golden_text(), "golden"), "golden");
}

Plain range(int begin, int end) {
  Plain plan = Plain::array();
  for (int layer = begin; layer < end; ++layer) plan.push_back(layer);
  return plan;
}

Plain joined(Plain first, const Plain& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

struct Nonsense {
  const char* name;
  std::vector<std::pair<const char*, Plain>> changes;
  const char* complaint;
};

const std::vector<Nonsense>& nonsense() {
  static const std::vector<Nonsense> kNonsense = {
      {"twice", {{"/entries/1", golden()["entries"][0]}}, "twice"},
      {"no entry", {{"/entries", Plain::array()}}, "no entry"},
      {"more than all", {{"/entries/1/pruning/keep", "4/3"}}, "impossible keep rule"},
      {"no layers below the prune layer", {{"/entries/1/pruning/layers", 1}}, "impossible budget"},
      {"pruned after the last layer", {{"/entries/1/pruning/prune_layer", 32}}, "impossible budget"},
      {"full that is not", {{"/entries/0/pruning/keep", "575/576"}}, "full keeps everything"},
      {"full that routes", {{"/entries/0/pruning/layer_policy", "dynamic"}}, "full keeps everything"},
      {"dynamic with a list", {{"/entries/1/pruning/kept_layers", range(0, 24)}}, "listed"},
      {"static without a list", {{"/entries/0/pruning/kept_layers", nullptr}}, "listed"},
      {"empty list", {{"/entries/2/pruning/kept_layers", Plain::array()}}, "contradict"},
      {"list too short", {{"/entries/2/pruning/kept_layers", range(0, 2)}}, "contradict"},
      {"list not ascending", {{"/entries/2/pruning/kept_layers", joined({1, 0}, range(14, 32))}}, "contradict"},
      {"list with a layer twice", {{"/entries/2/pruning/kept_layers", joined({0, 0}, range(14, 32))}}, "contradict"},
      {"list with a late layer twice",
       {{"/entries/2/pruning/kept_layers", joined({0, 1, 14}, range(14, 31))}},
       "contradict"},
      {"list without the first layers", {{"/entries/2/pruning/kept_layers", range(12, 32)}}, "contradict"},
      {"list without layer 1", {{"/entries/2/pruning/kept_layers", joined({0}, range(13, 32))}}, "contradict"},
      {"list beyond the last layer",
       {{"/entries/2/pruning/kept_layers", joined(joined({0, 1}, range(14, 31)), range(32, 33))}},
       "contradict"},
      {"huge",
       {{"/model/layers", int64_t{1} << 62},
        {"/entries/2/pruning/prune_layer", int64_t{1} << 61},
        {"/entries/2/pruning/layers", int64_t{1} << 62}},
       "full keeps everything"},
      {"huge alone",
       {{"/entries", Plain::array({golden()["entries"][2]})},
        {"/model/layers", int64_t{1} << 62},
        {"/entries/0/pruning/prune_layer", int64_t{1} << 61},
        {"/entries/0/pruning/layers", int64_t{1} << 62}},
       "contradict"},
      {"unlisted graph", {{"/entries/1/graphs/decoder", "graphs/other.onnx"}}, "not among the listed"},
      {"no router graph", {{"/entries/1/graphs/router", nullptr}}, "no router graph"},
      {"router graph without a router", {{"/model/router", nullptr}}, "without a router"},
  };
  return kNonsense;
}

TEST(Consistency, EntriesThatContradictTheirManifest) {
  for (const Nonsense& each : nonsense()) {
    SCOPED_TRACE(each.name);
    Plain manifest = golden();
    for (const auto& [pointer, value] : each.changes) manifest[Plain::json_pointer(pointer)] = value;
    const ar::Manifest read = ar::decode_manifest(manifest.dump(), "m");
    const std::string message = refused(AR_BUNDLE_CORRUPT, each.complaint, [&] { ar::check_manifest(read, "here"); });
    EXPECT_NE(message.find("here"), std::string::npos);
  }
}

TEST(Consistency, ManyEntriesAreCheckedInNoTime) {
  ar::Manifest manifest = ar::decode_manifest(scratch::golden_text(), "golden");
  const ar::Entry pruned = manifest.entries[1];
  for (int i = 0; i < 20'000; ++i) {
    manifest.entries.push_back(pruned);
    manifest.entries.back().pruning.version = "v" + std::to_string(i);
  }
  ar::check_manifest(manifest, "many");
}

}  // namespace
