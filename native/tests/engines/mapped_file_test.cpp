// Files that are mapped.
#include "engines/mapped_file.hpp"

#include <gtest/gtest.h>

#include "runtime/world.hpp"

namespace ar {
namespace {

namespace fs = std::filesystem;

TEST(MappedFile, HoldsTheBytes) {
  const fs::path path = fs::temp_directory_path() / ("allrounder-" + std::to_string(std::random_device()()));
  std::ofstream(path) << "some\nbytes";
  {
    const MappedFile file(path, "it cannot be read");
    EXPECT_EQ(std::string(static_cast<const char*>(file.data()), file.size()), "some\nbytes");
  }
  std::ofstream(path, std::ios::trunc) << "";
  std::string message;
  EXPECT_EQ(test::status_of([&] { MappedFile(path, "it cannot be read"); }, &message), AR_BACKEND_ERROR);
  EXPECT_EQ(message.rfind("it cannot be read; where: " + path.string(), 0), 0u) << message;
  fs::remove(path);
  EXPECT_EQ(test::status_of([&] { MappedFile(path, "it cannot be read"); }, &message), AR_BACKEND_ERROR);
  EXPECT_NE(message.find("No such file"), std::string::npos) << message;
}

}  // namespace
}  // namespace ar
