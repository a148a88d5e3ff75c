// Files: names that are refused, folders that hold more than files, sizes, digests.
#include "contract/hashing.hpp"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "scratch.hpp"

namespace {

namespace fs = std::filesystem;

using scratch::refused;
using scratch::write;

class Hashing : public scratch::Scratch {};

TEST(Paths, UnsafeOnesAreRefused) {
  const std::pair<std::string, const char*> kUnsafe[] = {
      {"../outside.bin", "leaves the bundle"},
      {"graphs/../../outside.bin", "leaves the bundle"},
      {"graphs/../x", "leaves the bundle"},
      {"..", "leaves the bundle"},
      {"graphs\\..\\x", "leaves the bundle"},
      {"/etc/passwd", "absolute"},
      {"\\\\server\\share", "absolute"},
      {"C:/windows", "absolute"},
      {"graphs\\x", "not safe"},
      {"./graphs/x", "not safe"},
      {"graphs//x", "not safe"},
      {"graphs/", "not safe"},
      {"", "not safe"},
      {".", "not safe"},
      {".hidden", "not safe"},
      {std::string("a\0b", 3), "not safe"},
      {"a\nb", "not safe"},
      {"caf\xc3\xa9", "not safe"},
      {"1:/x", "not safe"},
      {"-x", "not safe"},
      {std::string(300, 'x'), "not safe"},
      {std::string(201, 'x'), "not safe"},
      {std::string(1'000'000, '/'), "absolute"},
  };
  for (const auto& [path, complaint] : kUnsafe) {
    const std::string message = refused(AR_BUNDLE_CORRUPT, complaint, [&path = path] { ar::check_path(path, "here"); });
    EXPECT_LT(message.size(), 1000u);
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
  std::string deep = "x";
  while (deep.size() <= 1000) deep += "/x";
  refused(AR_BUNDLE_CORRUPT, "not safe", [&] { ar::check_path(deep, "here"); });
}

TEST(Paths, SafeOnes) {
  for (const std::string& path : {std::string("a"), std::string("graphs/weights/host-fp32-0.bin"),
                                  std::string("_/0-_."), std::string(200, 'x'), std::string("a/b.c/d-e")})
    ar::check_path(path, "here");
}

TEST_F(Hashing, AFolderIsListedAsItIs) {
  write(root_ / "b/a", "1");
  write(root_ / "b/c/d", "22");
  write(root_ / "\nodd \xff", "");
  fs::create_directories(root_ / "empty/inside");
  const ar::FileStats found = ar::list_files(root_);
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found.at("b/c/d").size, 2);
  EXPECT_EQ(found.at("b/a").size, 1);
  struct stat status{};
  ASSERT_EQ(stat((root_ / "b/a").c_str(), &status), 0);
  EXPECT_EQ(found.at("b/a"), ar::FileStat::of(status));
  EXPECT_EQ(found.count("\nodd \xff"), 1u);
}

TEST_F(Hashing, LinksAndSpecialFilesAreRefused) {
  fs::create_directories(root_ / "in");
  fs::create_symlink("/nowhere", root_ / "in/link");
  refused(AR_BUNDLE_CORRUPT, "symbolic link", [&] { ar::list_files(root_); });
  fs::remove(root_ / "in/link");
  fs::create_directory_symlink("/", root_ / "in/folder");
  refused(AR_BUNDLE_CORRUPT, "symbolic link", [&] { ar::list_files(root_); });
  fs::remove(root_ / "in/folder");
  ASSERT_EQ(mkfifo((root_ / "in/pipe").c_str(), 0600), 0);
  refused(AR_BUNDLE_CORRUPT, "special file", [&] { ar::list_files(root_); });
}

TEST_F(Hashing, AFolderThatIsNotThereIsTheSystemsError) {
  EXPECT_THROW(ar::list_files(root_ / "none"), std::system_error);
}

TEST_F(Hashing, MissingShortAndLongFiles) {
  write(root_ / "a", "123");
  const ar::FileStats found = ar::list_files(root_);
  const auto check = [&](const std::string& path, int64_t bytes) {
    ar::check_files(root_, {{path, {std::string(64, '0'), bytes}}}, found);
  };
  check("a", 3);
  refused(AR_BUNDLE_CORRUPT, "missing", [&] { check("b", 3); });
  refused(AR_BUNDLE_CORRUPT, "truncated", [&] { check("a", int64_t{1} << 62); });
  refused(AR_BUNDLE_CORRUPT, "too long", [&] { check("a", 2); });
  refused(AR_BUNDLE_CORRUPT, "leaves", [&] { check("../a", 3); });
}

class Verifying : public Hashing {
 protected:
  // Files of some MiB each and their records.
  std::map<std::string, ar::FileRecord> files(int count, std::size_t bytes) {
    std::map<std::string, ar::FileRecord> records;
    for (int i = 0; i < count; ++i) {
      const std::string data(bytes + static_cast<std::size_t>(i), static_cast<char>('a' + i));
      write(root_ / "files" / std::to_string(i), data);
      records[std::to_string(i)] = {ar::sha256_hex(data), static_cast<int64_t>(data.size())};
    }
    return records;
  }
  std::set<std::string> verify(const std::map<std::string, ar::FileRecord>& records,
                               const ar::Progress& progress = {}) {
    return ar::verify_files(root_ / "files", records, ar::list_files(root_ / "files"), progress);
  }
};

TEST_F(Verifying, FilesThatAreWhatTheirRecordsSay) {
  std::vector<int64_t> told;
  const auto records = files(5, 3 << 20);
  const auto progress = [&](const std::string& task, int64_t done, int64_t total) {
    EXPECT_EQ(task, "verifying (MiB)");
    EXPECT_EQ(total, 16);
    told.push_back(done);
  };
  EXPECT_EQ(verify(records, progress).size(), 5u);
  EXPECT_EQ(told.back(), 16);
  EXPECT_TRUE(std::is_sorted(told.begin(), told.end()));
}

TEST_F(Verifying, NoFilesAndEmptyFiles) {
  fs::create_directories(root_ / "files");
  EXPECT_TRUE(verify({}).empty());
  write(root_ / "files/empty", "");
  EXPECT_EQ(verify({{"empty", {ar::sha256_hex(""), 0}}}).size(), 1u);
}

TEST_F(Verifying, AChangedFileStopsIt) {
  const auto records = files(4, 1000);
  write(root_ / "files/2", std::string(1002, 'x'));
  refused(AR_BUNDLE_CORRUPT, "a file has changed", [&] { verify(records); });
}

TEST_F(Verifying, ALinkPutInPlaceOfAFileIsNotFollowed) {
  const auto records = files(1, 1000);
  const ar::FileStats found = ar::list_files(root_ / "files");
  fs::rename(root_ / "files/0", root_ / "away");
  fs::create_symlink(root_ / "away", root_ / "files/0");
  EXPECT_THROW(ar::verify_files(root_ / "files", records, found, {}), std::system_error);
}

TEST_F(Verifying, AFileThatChangesItsStateMeanwhileIsNamedByNobody) {
  const auto records = files(1, 1000);
  ar::FileStats found = ar::list_files(root_ / "files");
  found.at("0").ctime_ns -= 1;
  EXPECT_TRUE(ar::verify_files(root_ / "files", records, found, {}).empty());
}

TEST_F(Verifying, WhatProgressThrowsEndsIt) {
  const auto records = files(3, 2 << 20);
  EXPECT_THROW(verify(records, [](const std::string&, int64_t, int64_t) { throw std::runtime_error("enough"); }),
               std::runtime_error);
}

}  // namespace
