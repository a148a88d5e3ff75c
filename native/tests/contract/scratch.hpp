// What the contract's tests share: a folder that goes away, the golden manifest, small bundles, and caught errors.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "contract/error.hpp"
#include "contract/sha256.hpp"

namespace scratch {

namespace fs = std::filesystem;
using Plain = nlohmann::ordered_json;

inline std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write(const fs::path& path, const std::string& data) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << data;
}

inline std::string golden_text() { return read(fs::path(ALLROUNDER_GOLDEN) / "manifest.json"); }
inline Plain golden() { return Plain::parse(golden_text()); }

// A folder of its own, with the user's cache inside it.
class Scratch : public testing::Test {
 protected:
  Scratch() {
    std::string name = (fs::temp_directory_path() / "allrounder-test-XXXXXX").string();
    root_ = fs::canonical(mkdtemp(name.data()));
    const char* before = getenv("XDG_CACHE_HOME");
    if (before) before_ = before;
    setenv("XDG_CACHE_HOME", (root_ / "cache").c_str(), 1);
  }
  ~Scratch() override {
    before_ ? setenv("XDG_CACHE_HOME", before_->c_str(), 1) : unsetenv("XDG_CACHE_HOME");
    fs::remove_all(root_);
  }
  fs::path root_;

 private:
  std::optional<std::string> before_;
};

inline fs::path manifest_of(const fs::path& bundle) {
  return bundle / Plain::parse(read(bundle / "bundle.json")).at("manifest").get<std::string>();
}

// Makes a text the manifest of a bundle; one that it had before stays, as nobody's file.
inline void seal(const fs::path& bundle, const std::string& manifest) {
  const std::string name = "manifest-" + ar::sha256_hex(manifest) + ".json";
  write(bundle / name, manifest);
  write(bundle / "bundle.json", Plain{{"manifest", name}}.dump());
}

// A bundle with the golden manifest's entries, over files that hold their own names.
inline fs::path write_bundle(const fs::path& folder, Plain manifest = golden()) {
  for (auto& [path, record] : manifest["files"].items()) {
    write(folder / path, path);
    record = {{"sha256", ar::sha256_hex(path)}, {"bytes", path.size()}};
  }
  seal(folder, manifest.dump());
  return folder;
}

// Changes a bundle's manifest and makes its digest fit.
inline void rewrite(const fs::path& bundle, const std::function<void(Plain&)>& change) {
  Plain manifest = Plain::parse(read(manifest_of(bundle)));
  change(manifest);
  seal(bundle, manifest.dump());
}

// Expects an error of this status whose message holds `part`.
template <class Call>
std::string refused(ar_status status, const std::string& part, Call call) {
  try {
    call();
  } catch (const ar::Error& error) {
    EXPECT_EQ(error.status(), status) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what() << "\nwanted: " << part;
    return error.what();
  }
  ADD_FAILURE() << "nothing was refused, wanted: " << part;
  return "";
}

}  // namespace scratch
