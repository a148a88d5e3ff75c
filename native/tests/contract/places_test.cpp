// Where the cache lies.
#include "contract/places.hpp"

#include "scratch.hpp"

namespace {

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

}  // namespace
