// Opening a bundle: whatever is wrong with it is refused, as in tests/engines/test_bundle_reader.py.
#include "contract/bundle.hpp"

#include <sys/stat.h>

#include <atomic>
#include <thread>
#include <utility>

#include "scratch.hpp"

namespace {

namespace fs = std::filesystem;

using ar::open_bundle;
using scratch::manifest_of;
using scratch::Plain;
using scratch::read;
using scratch::refused;
using scratch::rewrite;
using scratch::seal;
using scratch::write;

constexpr const char* kPointer = "bundle.json";
constexpr const char* kGraph = "graphs/vision.onnx";

class Bundle : public scratch::Scratch {
 protected:
  Bundle() { scratch::write_bundle(bundle_); }
  std::string manifest_name() const { return manifest_of(bundle_).filename().string(); }
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& file : fs::recursive_directory_iterator(bundle_)) {
      if (file.is_regular_file()) found.push_back(fs::relative(file.path(), bundle_).string());
    }
    return found;
  }
  void corrupt(const std::string& complaint) {
    const std::string message = refused(AR_BUNDLE_CORRUPT, complaint, [&] { open_bundle(bundle_); });
    EXPECT_LT(message.size(), 1500u);
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
  const fs::path bundle_ = root_ / "bundle";
};

TEST_F(Bundle, AGoodOne) {
  const ar::OpenBundle opened = open_bundle(bundle_);
  EXPECT_EQ(opened.path, bundle_);
  EXPECT_EQ(opened.json, read(manifest_of(bundle_)));
  EXPECT_EQ(opened.manifest.entries.size(), 3u);
}

TEST_F(Bundle, ReachedByALinkAndByARelativePath) {
  fs::create_directory_symlink(bundle_, root_ / "link");
  EXPECT_EQ(open_bundle(root_ / "link").path, bundle_);
  EXPECT_EQ(open_bundle(bundle_ / "").path, bundle_);
  EXPECT_EQ(open_bundle(fs::relative(bundle_)).path, bundle_);
}

TEST_F(Bundle, AChangedByteInPointerOrManifest) {
  for (const std::string& name : {std::string(kPointer), manifest_name()}) {
    const std::string whole = read(bundle_ / name);
    for (const std::size_t at : {std::size_t{0}, whole.size() / 2, whole.size() - 1}) {
      std::string changed = whole;
      changed[at] = static_cast<char>(changed[at] ^ 1);
      write(bundle_ / name, changed);
      corrupt("");
    }
    write(bundle_ / name, whole);
  }
  open_bundle(bundle_);
}

// Bytes of the other files are for `allrounder verify`.
TEST_F(Bundle, AChangedByteInAListedFileIsNotSeenHere) {
  std::string changed = read(bundle_ / kGraph);
  changed[0] = static_cast<char>(changed[0] ^ 1);
  write(bundle_ / kGraph, changed);
  open_bundle(bundle_);
}

TEST_F(Bundle, AnyTruncatedProlongedOrMissingFile) {
  for (const std::string& name : names()) {
    const std::string whole = read(bundle_ / name);
    for (const std::string& data : {whole.substr(0, whole.size() - 2), std::string(), whole + "xy"}) {
      write(bundle_ / name, data);
      corrupt("");
    }
    fs::remove(bundle_ / name);
    corrupt(name == kPointer ? "this is not a bundle" : "missing");
    write(bundle_ / name, whole);
  }
  open_bundle(bundle_);
}

TEST_F(Bundle, WhatIsNotListedIsIgnored) {
  for (const char* name : {"extra.txt", "graphs/weights/.hidden", "new/folder/x", "\nodd", "manifest.json"})
    write(bundle_ / name, "");
  fs::create_symlink("/nowhere", bundle_ / "link");
  fs::create_directory_symlink(bundle_, bundle_ / "graphs/loop");
  ASSERT_EQ(mkfifo((bundle_ / "pipe").c_str(), 0600), 0);
  open_bundle(bundle_);
}

TEST_F(Bundle, LinksInPlaceOfFilesAndFolders) {
  const std::string names[] = {kPointer, manifest_name(), kGraph, "tokenizer"};
  for (const std::string& name : names) {
    fs::rename(bundle_ / name, root_ / "elsewhere");
    fs::create_symlink(root_ / "elsewhere", bundle_ / name);
    corrupt("symbolic link");
    fs::remove(bundle_ / name);
    fs::rename(root_ / "elsewhere", bundle_ / name);
  }
  open_bundle(bundle_);
}

TEST_F(Bundle, FoldersAndSpecialFilesInPlaceOfFiles) {
  const std::string manifest = manifest_name();
  for (const std::string& name : {manifest, std::string(kPointer), std::string(kGraph)}) {
    fs::remove(bundle_ / name);
    ASSERT_EQ(mkfifo((bundle_ / name).c_str(), 0600), 0);
    corrupt("special file");
    fs::remove(bundle_ / name);
    fs::create_directories(bundle_ / name);
    corrupt("a folder");
    fs::remove(bundle_ / name);
    scratch::write_bundle(bundle_);
  }
  fs::remove(bundle_ / manifest);
  fs::create_symlink("/dev/zero", bundle_ / manifest);  // which never ends
  corrupt("symbolic link");
}

TEST_F(Bundle, PathsThatAreNotOfTheBundle) {
  for (const char* path : {"../outside.bin", "/etc/passwd", "graphs\\x", "./x", "graphs//x", "", ".hidden", "a\nb"}) {
    SCOPED_TRACE(path);
    scratch::write_bundle(bundle_);
    rewrite(bundle_,
            [&](Plain& manifest) { manifest["files"][path] = {{"sha256", std::string(64, '0')}, {"bytes", 1}}; });
    corrupt("a listed path");
  }
}

TEST_F(Bundle, FromTheFutureBeatsAWrongDigestAndEverythingElse) {
  rewrite(bundle_, [](Plain& manifest) { manifest["schema"] = 7, manifest["new"] = "key"; });
  fs::remove(bundle_ / kGraph);
  refused(AR_BUNDLE_FROM_FUTURE, "schema 7", [&] { open_bundle(bundle_); });
  write(manifest_of(bundle_), read(manifest_of(bundle_)) + " ");
  refused(AR_BUNDLE_FROM_FUTURE, "schema 7", [&] { open_bundle(bundle_); });
}

TEST_F(Bundle, AManifestThatIsWrongThoughItsDigestIsRight) {
  rewrite(bundle_, [](Plain& manifest) { manifest["unknown"] = 1; });
  corrupt("unknown field");
  scratch::write_bundle(bundle_);
  rewrite(bundle_, [](Plain& manifest) { manifest["entries"] = Plain::array(); });
  corrupt("no entry");
  scratch::write_bundle(bundle_);
  rewrite(bundle_, [](Plain& manifest) { manifest["files"][kGraph]["bytes"] = int64_t{1} << 62; });
  corrupt("truncated");
}

TEST_F(Bundle, PointersThatAreNone) {
  const std::string name = manifest_name(), digest = name.substr(9, 64);
  std::string upper = name;
  for (char& digit : upper) digit = static_cast<char>(std::toupper(digit));
  const std::string zeros = "manifest-" + std::string(64, '0') + ".json";
  for (const Plain& pointer :
       {Plain(name), Plain::array({name}), Plain::object(), Plain{{"manifest", 1}}, Plain{{"manifest", nullptr}},
        Plain{{"manifest", name}, {"more", 1}}, Plain{{"Manifest", name}}, Plain{{"manifest", digest}},
        Plain{{"manifest", "manifest.json"}}, Plain{{"manifest", "./" + name}}, Plain{{"manifest", "../" + name}},
        Plain{{"manifest", name + "x"}}, Plain{{"manifest", name + "\n"}}, Plain{{"manifest", upper}},
        Plain{{"manifest", "manifest-" + digest.substr(1) + ".json"}}, Plain{{"manifest", std::string(10'000, 'a')}}}) {
    write(bundle_ / kPointer, pointer.dump());
    corrupt("bundle.json");
  }
  for (const std::string& text : {std::string(), std::string("not JSON"), std::string(100, '\0'), "\xef\xbb\xbf" + name,
                                  std::string(100'000, '['), "{\"manifest\":\"" + name + "\"} x"}) {
    write(bundle_ / kPointer, text);
    corrupt("not JSON");
  }
  write(bundle_ / kPointer, Plain{{"manifest", zeros}}.dump());
  corrupt("the manifest is missing");
  write(bundle_ / zeros, read(bundle_ / name));
  corrupt("the manifest has changed");
  write(bundle_ / kPointer, " {\n\"manifest\" : \"" + name + "\"}\n");
  open_bundle(bundle_);
}

TEST_F(Bundle, AManifestThatIsNotJson) {
  for (const std::string& content : {std::string(), std::string("not JSON"), std::string(100, '\0'),
                                     std::string(100'000, '['), std::string("{\"schema\":3,\"producer\":\"\xff\"}")}) {
    seal(bundle_, content);
    corrupt("not JSON");
  }
}

TEST_F(Bundle, NoDirectoryAFileAndAnEmptyDirectory) {
  refused(AR_BUNDLE_ERROR, "no such directory", [&] { open_bundle(root_ / "none"); });
  refused(AR_BUNDLE_ERROR, "no such directory", [&] { open_bundle(""); });
  write(root_ / "file", "");
  refused(AR_BUNDLE_ERROR, "a bundle is a directory", [&] { open_bundle(root_ / "file"); });
  refused(AR_BUNDLE_ERROR, "no such directory", [&] { open_bundle(root_ / "file/below"); });
  fs::create_directories(root_ / "empty");
  refused(AR_BUNDLE_CORRUPT, "no bundle.json", [&] { open_bundle(root_ / "empty"); });
  fs::create_symlink("loop", root_ / "loop");
  refused(AR_BUNDLE_ERROR, "cannot be read", [&] { open_bundle(root_ / "loop"); });
}

// Publishes run while it is opened, at most one or two during an opening, and sweep what the one before left: every
// opening gives one of the bundles, whole.
TEST_F(Bundle, OpenedWhileOthersPublish) {
  std::atomic<bool> done{false};
  std::atomic<int> openings{0};
  const auto publish = [&](int round) {
    const fs::path before = manifest_of(bundle_);
    Plain manifest = Plain::parse(read(before));
    const std::string fresh = "graphs/vision-" + std::to_string(round) + ".onnx";
    std::string old;
    for (Plain& entry : manifest["entries"]) old = std::exchange(entry["graphs"]["vision"], fresh).get<std::string>();
    fs::copy_file(bundle_ / old, bundle_ / fresh);
    manifest["producer"] = "round " + std::to_string(round);
    manifest["files"][fresh] = manifest["files"][old];
    manifest["files"].erase(old);
    const std::string data = manifest.dump(), name = "manifest-" + ar::sha256_hex(data) + ".json";
    write(bundle_ / name, data);
    write(root_ / "next", Plain{{"manifest", name}}.dump());
    fs::rename(root_ / "next", bundle_ / kPointer);
    fs::remove(before);
    fs::remove(bundle_ / old);
  };
  std::thread publisher([&] {
    for (int round = 0; round < 100; ++round) {
      const int seen = openings;
      publish(round);
      while (openings == seen) std::this_thread::yield();
    }
    done = true;
  });
  for (; !done; ++openings) {
    try {
      EXPECT_EQ(open_bundle(bundle_).manifest.entries.size(), 3u);
    } catch (const ar::Error& error) {
      ADD_FAILURE() << error.what();
    }
  }
  publisher.join();
  EXPECT_EQ(open_bundle(bundle_).manifest.producer, "round 99");
}

}  // namespace
