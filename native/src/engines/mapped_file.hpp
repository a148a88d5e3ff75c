// A file in memory, as long as this lives, without taking memory of this process.
#pragma once

#include <cstddef>
#include <filesystem>

namespace ar {

class MappedFile {
 public:
  // `what` is the error's sentence: "a plan cannot be read". Throws AR_BACKEND_ERROR where there is no such file, it
  // cannot be read, or is empty.
  MappedFile(const std::filesystem::path& path, const char* what);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  const void* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace ar
