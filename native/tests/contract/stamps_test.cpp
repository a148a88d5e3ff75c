// Stamps: an unchanged bundle opens without hashing, a changed one never does.
#include "contract/stamps.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include "contract/bundle.hpp"
#include "contract/user_dirs.hpp"
#include "scratch.hpp"

namespace {

namespace fs = std::filesystem;

using scratch::Plain;
using scratch::read;
using scratch::write;

class Stamps : public scratch::Scratch {
 protected:
  Stamps() {
    fs::create_directories(bundle_);
    write(bundle_ / "a", "1");
    write(bundle_ / "b", "22");
    digests_ = {{"a", ar::sha256_hex("1")}, {"b", ar::sha256_hex("22")}};
  }
  // What lies in the bundle, as though it had been there for an hour.
  ar::FileStats settled() const {
    ar::FileStats found = ar::list_files(bundle_);
    for (auto& [path, state] : found) state.ctime_ns -= int64_t{3600} * 1'000'000'000;
    return found;
  }
  ar::Log log() {
    return [this](ar::Level, const std::string& message) { said_ += message; };
  }
  std::vector<fs::path> files() const {
    std::vector<fs::path> all;
    if (fs::exists(root_ / "cache"))
      for (const auto& file : fs::recursive_directory_iterator(root_ / "cache"))
        if (file.is_regular_file()) all.push_back(file.path());
    return all;
  }
  const fs::path bundle_ = root_ / "bundle";
  ar::Digests digests_;
  std::string said_;
};

TEST_F(Stamps, WhatWasStampedIsKnown) {
  const ar::FileStats found = settled();
  EXPECT_TRUE(ar::read_stamp(bundle_, found).empty());
  ar::write_stamp(bundle_, digests_, found, log());
  EXPECT_EQ(ar::read_stamp(bundle_, found), digests_);
  EXPECT_EQ(said_, "");
  ASSERT_EQ(files().size(), 1u);
  EXPECT_EQ(files()[0].filename(), ar::sha256_hex(bundle_.string()) + ".json");
}

TEST_F(Stamps, AnyChangeOfStateUnmakesIt) {
  const ar::FileStats found = settled();
  ar::write_stamp(bundle_, digests_, found, log());
  const auto known = [&](auto change) {
    ar::FileStats now = found;
    change(now.at("a"));
    return ar::read_stamp(bundle_, now).count("a");
  };
  EXPECT_EQ(known([](ar::FileStat&) {}), 1u);
  EXPECT_EQ(known([](ar::FileStat& state) { ++state.device; }), 0u);
  EXPECT_EQ(known([](ar::FileStat& state) { ++state.inode; }), 0u);
  EXPECT_EQ(known([](ar::FileStat& state) { ++state.size; }), 0u);
  EXPECT_EQ(known([](ar::FileStat& state) { ++state.mtime_ns; }), 0u);
  EXPECT_EQ(known([](ar::FileStat& state) { ++state.ctime_ns; }), 0u);
}

TEST_F(Stamps, AFileOfThisVeryMomentIsNotStamped) {
  ar::FileStats found = settled();
  found.at("a") = ar::list_files(bundle_).at("a");
  found.at("a").ctime_ns += int64_t{3600} * 1'000'000'000;  // its moment has not come yet, however slow this test is
  ar::write_stamp(bundle_, digests_, found, log());
  EXPECT_EQ(ar::read_stamp(bundle_, found).size(), 1u);
}

TEST_F(Stamps, NumbersAtTheirLimits) {
  ar::FileStats found = settled();
  found.at("a") = {UINT64_MAX, UINT64_MAX, INT64_MAX, INT64_MIN, INT64_MIN};
  ar::write_stamp(bundle_, digests_, found, log());
  EXPECT_EQ(ar::read_stamp(bundle_, found), digests_);
}

TEST_F(Stamps, ADamagedStampIsNoStamp) {
  const ar::FileStats found = settled();
  ar::write_stamp(bundle_, digests_, found, log());
  const std::string whole = read(files()[0]);
  for (const std::string& content :
       {std::string(), std::string("{}"), std::string("\xff"), std::string(100'000, '['), whole + "x",
        std::string("{\"path\":1,\"files\":{}}"), std::string(whole).replace(whole.find("/bundle"), 7, "/elsewhere"),
        "{\"path\":\"" + bundle_.string() + "\",\"files\":{\"a\":[\"0\",[1,2,3,4]]}}",
        "{\"path\":\"" + bundle_.string() + "\",\"files\":{},\"more\":1}"}) {
    write(files()[0], content);
    EXPECT_TRUE(ar::read_stamp(bundle_, found).empty()) << content.substr(0, 100);
  }
  write(files()[0], whole);
  EXPECT_EQ(ar::read_stamp(bundle_, found).size(), 2u);
}

TEST_F(Stamps, AMovedBundleHasNone) {
  const ar::FileStats found = settled();
  ar::write_stamp(bundle_, digests_, found, log());
  EXPECT_TRUE(ar::read_stamp(root_ / "moved", found).empty());
}

TEST_F(Stamps, ThoseOfBundlesThatAreGoneAreSwept) {
  const ar::FileStats found = settled();
  fs::create_directories(root_ / "gone");
  ar::write_stamp(root_ / "gone", {}, found, log());
  write(root_ / "cache/allrounder/stamps/broken.json", "{");
  fs::remove(root_ / "gone");
  EXPECT_EQ(files().size(), 2u);
  ar::write_stamp(bundle_, digests_, found, log());
  EXPECT_EQ(files().size(), 1u);
}

TEST_F(Stamps, WithoutAWritableCacheItIsSaid) {
  write(root_ / "cache", "a file, so that nothing can be made below it");
  ar::write_stamp(bundle_, digests_, settled(), log());
  EXPECT_NE(said_.find("hashed at every load"), std::string::npos);
}

TEST_F(Stamps, APathThatIsNoUtf8HasNone) {
  ar::write_stamp(root_ / "\xff", digests_, settled(), log());
  EXPECT_NE(said_.find("not UTF-8"), std::string::npos);
  EXPECT_TRUE(files().empty());
  EXPECT_TRUE(ar::read_stamp(root_ / "\xff", settled()).empty());
}

class StampedBundle : public scratch::Scratch {
 protected:
  StampedBundle() { scratch::write_bundle(bundle_); }
  // Puts the time of every change back by rewriting the stamp that an opening would have left later on.
  void settle() {
    const ar::FileStats found = ar::list_files(bundle_);
    const Plain manifest = Plain::parse(read(bundle_ / "manifest.json"));
    Plain files = Plain::object();
    for (const auto& [path, record] : manifest["files"].items()) {
      const ar::FileStat& state = found.at(path);
      files[path] = {record["sha256"], {state.device, state.inode, state.size, state.mtime_ns, state.ctime_ns}};
    }
    const Plain stamp = {{"path", bundle_.string()}, {"files", files}};
    write(*ar::cache_dir() / "stamps" / (ar::sha256_hex(bundle_.string()) + ".json"), stamp.dump());
  }
  int64_t hashed() {  // MiB, rounded up
    int64_t mib = 0;
    ar::open_bundle(bundle_, [&](const std::string&, int64_t, int64_t total) { mib = total; });
    return mib;
  }
  const fs::path bundle_ = root_ / "bundle";
};

TEST_F(StampedBundle, IsNotHashedAgain) {
  EXPECT_EQ(hashed(), 1);
  settle();
  EXPECT_EQ(hashed(), 0);
}

TEST_F(StampedBundle, AChangeIsNoticedEvenWithItsTimeSetBack) {
  settle();
  const fs::path path = bundle_ / "graphs/vision.onnx";
  struct stat before{};
  ASSERT_EQ(stat(path.c_str(), &before), 0);
  std::string data = read(path);
  data[0] ^= 1;
  write(path, data);
  const timespec times[2] = {before.st_atim, before.st_mtim};
  ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
  struct stat after{};
  ASSERT_EQ(stat(path.c_str(), &after), 0);
  if (after.st_ctim.tv_nsec == before.st_ctim.tv_nsec) GTEST_SKIP() << "the file system's clock has not ticked";
  scratch::refused(AR_BUNDLE_CORRUPT, "has changed", [&] { ar::open_bundle(bundle_); });
}

TEST_F(StampedBundle, OtherContentInTheManifestIsHashedAndRefused) {
  settle();
  scratch::rewrite(bundle_,
                   [](Plain& manifest) { manifest["files"]["graphs/vision.onnx"]["sha256"] = std::string(64, '0'); });
  scratch::refused(AR_BUNDLE_CORRUPT, "has changed", [&] { ar::open_bundle(bundle_); });
}

TEST_F(StampedBundle, UnlistedAndMissingFilesAreStillNoticed) {
  settle();
  write(bundle_ / "extra", "");
  scratch::refused(AR_BUNDLE_CORRUPT, "does not list", [&] { ar::open_bundle(bundle_); });
  fs::remove(bundle_ / "extra");
  fs::remove(bundle_ / "graphs/vision.onnx");
  scratch::refused(AR_BUNDLE_CORRUPT, "missing", [&] { ar::open_bundle(bundle_); });
}

}  // namespace
