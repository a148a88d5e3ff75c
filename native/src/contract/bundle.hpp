// Bundles: opening and verifying one, by the rules of allrounder/bundle.py.
//
// What it is: open_bundle, which returns a manifest only if every byte of the bundle is what it says.
// What it knows: manifest.json, manifest.sha256, the journal of a publish, and the user's stamps, which it shares with
// Python. What it does not know: backends, graphs, and how bundles are written.
#pragma once

#include <filesystem>
#include <string>

#include "contract/manifest.hpp"
#include "contract/progress.hpp"

namespace ar {

struct OpenBundle {
  std::filesystem::path path;  // links resolved
  Manifest manifest;
  std::string json;    // manifest.json, byte for byte
  std::string digest;  // of it
};

// Throws AR_BUNDLE_FROM_FUTURE (beats every other complaint), AR_BUNDLE_CORRUPT, AR_BUNDLE_ERROR. `progress` and `log`
// are told in the caller's thread: the MiB that are hashed, and why it will be hashed again next time.
OpenBundle open_bundle(const std::filesystem::path& path, const Progress& progress = {}, const Log& log = {});

}  // namespace ar
