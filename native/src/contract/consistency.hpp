// What a manifest must be to make sense as a whole, by the rules of allrounder/consistency.py.
//
// What it is: the checks across records: unique keys, possible pruning, graphs that are listed.
// What it knows: the manifest's records. What it does not know: the file system.
#pragma once

#include <string>

#include "contract/manifest.hpp"

namespace ar {

// Throws AR_BUNDLE_CORRUPT: no entry, an entry twice, an impossible pruning, or a graph that is not listed.
void check_manifest(const Manifest& manifest, const std::string& where);

}  // namespace ar
