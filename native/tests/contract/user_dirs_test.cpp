// Where the cache lies, and writes that are whole or absent.
#include "contract/user_dirs.hpp"

#include <sys/stat.h>

#include "scratch.hpp"

namespace {

namespace fs = std::filesystem;

class UserDirs : public scratch::Scratch {
 protected:
  UserDirs() : home_(getenv("HOME") ? getenv("HOME") : "") {}
  ~UserDirs() override { setenv("HOME", home_.c_str(), 1); }

 private:
  std::string home_;
};

TEST_F(UserDirs, WhereTheCacheIs) {
  setenv("HOME", root_.c_str(), 1);
  setenv("XDG_CACHE_HOME", (root_ / "xdg").c_str(), 1);
  EXPECT_EQ(ar::cache_dir(), root_ / "xdg/allrounder");
  for (const char* ignored : {"", "relative/path"}) {
    setenv("XDG_CACHE_HOME", ignored, 1);
    EXPECT_EQ(ar::cache_dir(), root_ / ".cache/allrounder");
  }
  unsetenv("XDG_CACHE_HOME");
  EXPECT_EQ(ar::cache_dir(), root_ / ".cache/allrounder");
  unsetenv("HOME");
  const auto listed = ar::cache_dir();  // of the password file, where this user stands in it
  if (listed) {
    EXPECT_TRUE(listed->is_absolute());
  }
}

TEST_F(UserDirs, AWriteIsWholeOrAbsent) {
  const fs::path path = root_ / "new/folder/file";
  EXPECT_TRUE(ar::write_whole(path, "one"));
  EXPECT_TRUE(ar::write_whole(path, "two"));
  EXPECT_EQ(scratch::read(path), "two");
  EXPECT_EQ(std::distance(fs::directory_iterator(path.parent_path()), fs::directory_iterator()), 1);
  struct stat status{};
  ASSERT_EQ(stat(path.parent_path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0077, 0u);
}

TEST_F(UserDirs, WhereItCannotWriteNothingIsLeft) {
  scratch::write(root_ / "file", "in the way");
  EXPECT_FALSE(ar::write_whole(root_ / "file/below", "data"));
  fs::create_directories(root_ / "folder/target/inside");  // a folder cannot be replaced by a file
  EXPECT_FALSE(ar::write_whole(root_ / "folder/target", "data"));
  EXPECT_EQ(std::distance(fs::directory_iterator(root_ / "folder"), fs::directory_iterator()), 1);
}

}  // namespace
