// A file descriptor that closes itself.
#pragma once

#include <unistd.h>

#include <utility>

namespace ar {

class UniqueFile {
 public:
  explicit UniqueFile(int handle) : handle_(handle) {}
  UniqueFile(UniqueFile&& other) noexcept : handle_(std::exchange(other.handle_, -1)) {}
  UniqueFile(const UniqueFile&) = delete;
  UniqueFile& operator=(const UniqueFile&) = delete;
  UniqueFile& operator=(UniqueFile&&) = delete;
  ~UniqueFile() {
    if (handle_ >= 0) close(handle_);
  }
  explicit operator bool() const { return handle_ >= 0; }
  int get() const { return handle_; }

 private:
  int handle_;
};

}  // namespace ar
