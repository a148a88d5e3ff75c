// Fuzz target: any bytes as a manifest. They are refused with an error of ours, or they are read; then each entry has
// its text, and what was read makes sense or not, and can be chosen from.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "contract/choice.hpp"
#include "contract/error.hpp"
#include "contract/json.hpp"
#include "contract/manifest.hpp"

namespace {

void demand(bool holds) {
  if (!holds) std::abort();
}

void choose(const ar::Manifest& manifest) {
  const ar::LatencyTarget target{40, 2};
  demand(ar::by_faithfulness(manifest.entries).size() == manifest.entries.size());
  demand(!ar::latency_table(manifest.entries, target, nullptr).empty());
  demand(ar::choose(manifest.entries, std::nullopt) < manifest.entries.size());
  try {
    demand(ar::choose(manifest.entries, target, nullptr, true) < manifest.entries.size());
  } catch (const ar::Error& error) {
    demand(error.status() == AR_NO_ENGINE_MEETS_TARGET);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  try {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const ar::Manifest manifest = ar::decode_manifest(text, "fuzz");
    for (const ar::Entry& entry : manifest.entries) demand(!ar::json_element(text, "entries", entry.index).empty());
    if (!manifest.entries.empty()) choose(manifest);
    ar::check_manifest(manifest, "fuzz");
  } catch (const ar::Error& error) {
    demand(error.status() == AR_BUNDLE_CORRUPT || error.status() == AR_BUNDLE_FROM_FUTURE);
  }
  return 0;
}
