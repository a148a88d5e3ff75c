#include "engines/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "contract/error.hpp"

namespace ar {

MappedFile::MappedFile(const std::filesystem::path& path, const char* what) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat facts {};
  void* mapped = MAP_FAILED;
  if (file >= 0 && ::fstat(file, &facts) == 0) {
    size_ = static_cast<std::size_t>(facts.st_size);
    mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);  // refuses what is empty
  }
  const int reason = errno;
  if (file >= 0) ::close(file);
  if (mapped == MAP_FAILED) {
    throw Error(AR_BACKEND_ERROR, what, {path.string(), std::generic_category().message(reason), "", ""});
  }
  data_ = mapped;
}

MappedFile::~MappedFile() { ::munmap(data_, size_); }

}  // namespace ar
