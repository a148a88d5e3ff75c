// Bundles: opening one, by the rules of engines/bundle/reader.py.
//
// What it is: open_bundle, which returns a manifest only if its digest is right and every listed file is there, of its
// listed size. That every byte is right is what `allrounder verify` and Python's first load on a machine find out.
// What it knows: bundle.json, the pointer that a publish replaces, and the manifest that it names by its digest; files
// that the manifest does not list are nobody's. What it does not know: backends, graphs, and how bundles are written.
#pragma once

#include <filesystem>
#include <string>

#include "contract/manifest.hpp"

namespace ar {

struct OpenBundle {
  std::filesystem::path path;  // links resolved
  Manifest manifest;
  std::string json;  // the manifest, byte for byte
};

// Throws AR_BUNDLE_FROM_FUTURE (a newer schema; beats every other complaint about manifest and files),
// AR_BUNDLE_CORRUPT, AR_BUNDLE_ERROR (no directory, or unreadable).
OpenBundle open_bundle(const std::filesystem::path& path);

}  // namespace ar
