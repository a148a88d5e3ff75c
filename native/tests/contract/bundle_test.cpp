// Opening a bundle: whatever is wrong with it is refused, as in tests/unit/test_contract_bundle.py.
#include "contract/bundle.hpp"

#include <sys/stat.h>

#include <thread>

#include "scratch.hpp"

namespace {

namespace fs = std::filesystem;

using ar::open_bundle;
using scratch::Plain;
using scratch::read;
using scratch::refused;
using scratch::rewrite;
using scratch::write;

constexpr const char *kManifest = "manifest.json", *kDigest = "manifest.sha256", *kJournal = "manifest.sha256.next";

class Bundle : public scratch::Scratch {
 protected:
  Bundle() { scratch::write_bundle(bundle_); }
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
  EXPECT_EQ(opened.json, read(bundle_ / kManifest));
  EXPECT_EQ(opened.digest, ar::sha256_hex(opened.json));
  EXPECT_EQ(opened.manifest.entries.size(), 3u);
}

TEST_F(Bundle, ReachedByALinkAndByARelativePath) {
  fs::create_directory_symlink(bundle_, root_ / "link");
  EXPECT_EQ(open_bundle(root_ / "link").path, bundle_);
  EXPECT_EQ(open_bundle(bundle_ / "").path, bundle_);
  EXPECT_EQ(open_bundle(fs::relative(bundle_)).path, bundle_);
}

TEST_F(Bundle, AChangedByteInAnyFile) {
  for (const std::string& name : names()) {
    const std::string whole = read(bundle_ / name);
    for (const std::size_t at : {std::size_t{0}, whole.size() / 2, whole.size() - (name == kDigest ? 2 : 1)}) {
      std::string changed = whole;
      changed[at] = static_cast<char>(changed[at] ^ 1);
      write(bundle_ / name, changed);
      EXPECT_THROW(open_bundle(bundle_), ar::Error) << name << " at " << at;
    }
    write(bundle_ / name, whole);
  }
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
    corrupt(name == kManifest ? "no manifest" : "missing");
    write(bundle_ / name, whole);
  }
  open_bundle(bundle_);
}

TEST_F(Bundle, UnlistedFiles) {
  for (const char* name : {"extra.txt", "graphs/extra.onnx", "graphs/weights/.hidden", "new/folder/x", "\nodd"}) {
    write(bundle_ / name, "");
    corrupt("does not list");
    fs::remove(bundle_ / name);
  }
  fs::create_directories(bundle_ / "empty");
  open_bundle(bundle_);
}

TEST_F(Bundle, LinksInPlaceOfFilesAndFolders) {
  for (const char* name : {kManifest, kDigest, "graphs/vision.onnx", "tokenizer"}) {
    fs::rename(bundle_ / name, root_ / "elsewhere");
    fs::create_symlink(root_ / "elsewhere", bundle_ / name);
    corrupt("symbolic link");
    fs::remove(bundle_ / name);
    fs::rename(root_ / "elsewhere", bundle_ / name);
  }
  open_bundle(bundle_);
}

TEST_F(Bundle, SpecialFilesBesideAndInPlaceOfSmallOnes) {
  for (const char* name : {"pipe", kJournal, kDigest, kManifest}) {
    fs::remove(bundle_ / name);
    ASSERT_EQ(mkfifo((bundle_ / name).c_str(), 0600), 0);
    corrupt("special file");
    fs::remove(bundle_ / name);
    scratch::write_bundle(bundle_);
  }
  fs::remove(bundle_ / kManifest);
  fs::create_symlink("/dev/zero", bundle_ / kManifest);  // which never ends
  corrupt("special file");
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

TEST_F(Bundle, AManifestThatListsItself) {
  for (const char* name : {kManifest, kDigest, kJournal}) {
    scratch::write_bundle(bundle_);
    rewrite(bundle_,
            [&](Plain& manifest) { manifest["files"][name] = {{"sha256", std::string(64, '0')}, {"bytes", 1}}; });
    corrupt("lists itself");
  }
}

TEST_F(Bundle, FromTheFutureBeatsAWrongDigestAndEverythingElse) {
  rewrite(bundle_, [](Plain& manifest) { manifest["schema"] = 7, manifest["new"] = "key"; });
  write(bundle_ / kDigest, "nonsense");
  write(bundle_ / kJournal, "nonsense");
  fs::remove(bundle_ / "graphs/vision.onnx");
  refused(AR_BUNDLE_FROM_FUTURE, "schema 7", [&] { open_bundle(bundle_); });
}

TEST_F(Bundle, AManifestThatIsWrongThoughItsDigestIsRight) {
  rewrite(bundle_, [](Plain& manifest) { manifest["unknown"] = 1; });
  corrupt("unknown field");
  scratch::write_bundle(bundle_);
  rewrite(bundle_, [](Plain& manifest) { manifest["entries"] = Plain::array(); });
  corrupt("no entry");
  scratch::write_bundle(bundle_);
  rewrite(bundle_, [](Plain& manifest) { manifest["files"]["graphs/vision.onnx"]["bytes"] = int64_t{1} << 62; });
  corrupt("truncated");
}

TEST_F(Bundle, WrongDigests) {
  const std::string right = read(bundle_ / kDigest).substr(0, 64);
  std::string upper = right;
  for (char& digit : upper) digit = static_cast<char>(std::toupper(digit));
  for (const std::string& digest : {std::string(), std::string(63, '0'), std::string(64, 'G'), std::string("\xff"),
                                    std::string(10'000, 'a'), upper, right + "\n\n", " " + right, right + "x"}) {
    write(bundle_ / kDigest, digest);
    corrupt("digest is not one");
  }
  write(bundle_ / kDigest, std::string(64, '0'));
  corrupt("the manifest has changed");
  for (const char* end : {"", "\n", " ", "\r"}) {
    write(bundle_ / kDigest, right + end);
    open_bundle(bundle_);
  }
}

TEST_F(Bundle, AManifestThatIsNotJson) {
  for (const std::string& content : {std::string(), std::string("not JSON"), std::string(100, '\0'),
                                     std::string(100'000, '['), std::string("{\"schema\":1,\"producer\":\"\xff\"}")}) {
    write(bundle_ / kManifest, content);
    write(bundle_ / kDigest, ar::sha256_hex(content));
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
  refused(AR_BUNDLE_CORRUPT, "no manifest", [&] { open_bundle(root_ / "empty"); });
  fs::create_symlink("loop", root_ / "loop");
  refused(AR_BUNDLE_ERROR, "cannot be read", [&] { open_bundle(root_ / "loop"); });
}

TEST_F(Bundle, AFolderInPlaceOfAFile) {
  for (const char* name : {kManifest, kDigest, "graphs/vision.onnx"}) {
    fs::remove(bundle_ / name);
    fs::create_directories(bundle_ / name);
    corrupt("");
    fs::remove(bundle_ / name);
    scratch::write_bundle(bundle_);
  }
}

// A publish was killed before the manifest was replaced: new files are there, and the journal names them.
TEST_F(Bundle, AKilledPublishWithTheOldManifest) {
  const std::string digest = open_bundle(bundle_).digest;
  write(bundle_ / "graphs/new.onnx", "new");
  write(bundle_ / kJournal, std::string(64, '0') + "\ngraphs/new.onnx\n");
  EXPECT_EQ(open_bundle(bundle_).digest, digest);
  write(bundle_ / "graphs/other.onnx", "other");
  corrupt("does not list");
}

// It was killed after that: the manifest's digest stands in the journal's first line alone.
TEST_F(Bundle, AKilledPublishWithTheNewManifest) {
  const std::string old = read(bundle_ / kDigest);
  rewrite(bundle_, [](Plain& manifest) { manifest["producer"] = "next"; });
  const std::string next = read(bundle_ / kDigest);
  write(bundle_ / kDigest, old);
  corrupt("the manifest has changed");
  write(bundle_ / kJournal, next + "\n");
  EXPECT_EQ(open_bundle(bundle_).manifest.producer, "next");
}

TEST_F(Bundle, ADamagedJournal) {
  const std::string zeros(64, '0');
  for (const std::string& content : {std::string(), std::string("nonsense"), zeros, zeros + "\nx",
                                     std::string("\xff\n"), "\n" + zeros, zeros + "\r\n"}) {
    write(bundle_ / kJournal, content);
    corrupt("journal");
  }
  write(bundle_ / kJournal, zeros + "\n../x\n");
  corrupt("leaves the bundle");
}

// Publishes run while it is opened, one after the other: every opening gives the old bundle or the new one, whole.
TEST_F(Bundle, OpenedWhileOthersPublish) {
  std::atomic<bool> done{false};
  std::thread publisher([&] {
    for (int round = 0; round < 30; ++round) {
      Plain manifest = Plain::parse(read(bundle_ / kManifest));
      manifest["producer"] = "round " + std::to_string(round);
      const std::string data = manifest.dump(), digest = ar::sha256_hex(data);
      const auto replace = [&](const char* name, const std::string& content) {
        write(root_ / "next", content);
        fs::rename(root_ / "next", bundle_ / name);
      };
      replace(kJournal, digest + "\n");
      replace(kManifest, data);
      replace(kDigest, digest + "\n");
      fs::remove(bundle_ / kJournal);
    }
    done = true;
  });
  int opened = 0;
  while (!done || opened == 0) {
    try {
      EXPECT_EQ(open_bundle(bundle_).manifest.entries.size(), 3u);
      ++opened;
    } catch (const ar::Error& error) {
      // Five publishes during one opening are more than it waits for; then it says what it saw.
      EXPECT_EQ(error.status(), AR_BUNDLE_CORRUPT) << error.what();
    }
  }
  publisher.join();
  EXPECT_EQ(open_bundle(bundle_).manifest.producer, "round 29");
}

}  // namespace
