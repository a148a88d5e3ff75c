// Files: names that are refused, sizes, and what is no file.
#include "contract/files.hpp"

#include <sys/stat.h>

#include "scratch.hpp"

namespace {

namespace fs = std::filesystem;

using scratch::refused;
using scratch::write;

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

class Files : public scratch::Scratch {
 protected:
  void check(const std::string& path, int64_t bytes) {
    ar::check_files(root_, {{path, bytes}});
  }
};

TEST_F(Files, MissingShortAndLongOnes) {
  write(root_ / "a", "123");
  write(root_ / "b/c/d", "");
  check("a", 3);
  check("b/c/d", 0);
  refused(AR_BUNDLE_CORRUPT, "missing", [&] { check("b/none", 3); });
  refused(AR_BUNDLE_CORRUPT, "missing", [&] { check("none/b", 3); });
  refused(AR_BUNDLE_CORRUPT, "missing", [&] { check("a/below", 3); });
  refused(AR_BUNDLE_CORRUPT, "truncated", [&] { check("a", int64_t{1} << 62); });
  refused(AR_BUNDLE_CORRUPT, "too long", [&] { check("a", 2); });
  refused(AR_BUNDLE_CORRUPT, "leaves", [&] { check("../a", 3); });
}

TEST_F(Files, LinksFoldersAndSpecialFilesInTheirPlace) {
  write(root_ / "away/file", "123");
  fs::create_symlink(root_ / "away/file", root_ / "link");
  fs::create_directory_symlink(root_ / "away", root_ / "folder");
  fs::create_symlink("/nowhere", root_ / "dangling");
  ASSERT_EQ(mkfifo((root_ / "pipe").c_str(), 0600), 0);
  for (const char* path : {"link", "folder/file", "dangling"})
    refused(AR_BUNDLE_CORRUPT, "a symbolic link", [&] { check(path, 3); });
  refused(AR_BUNDLE_CORRUPT, "a special file", [&] { check("pipe", 0); });
  refused(AR_BUNDLE_CORRUPT, "a folder", [&] { check("away", 3); });
}

TEST_F(Files, ReadingARegularOneAndNoOther) {
  write(root_ / "a", std::string("1\0\n", 3));
  EXPECT_EQ(ar::read_regular(root_ / "a"), std::string("1\0\n", 3));
  EXPECT_EQ(ar::read_regular(root_ / "none"), std::nullopt);
  EXPECT_EQ(ar::read_regular(root_ / "a/below"), std::nullopt);
  fs::create_symlink(root_ / "a", root_ / "link");
  ASSERT_EQ(mkfifo((root_ / "pipe").c_str(), 0600), 0);
  for (const char* path : {"link", "pipe", "."})
    refused(AR_BUNDLE_CORRUPT, "only regular files", [&] { ar::read_regular(root_ / path); });
}

}  // namespace
