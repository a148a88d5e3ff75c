#include "runtime/gpu.hpp"

#include <algorithm>
#include <fstream>
#include <optional>
#include <regex>
#include <sstream>
#include <system_error>
#include <vector>

namespace ar {
namespace {

namespace fs = std::filesystem;

std::optional<std::string> content(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<fs::path> information_files(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code failed;
  for (fs::directory_iterator each(folder / "gpus", failed), end; !failed && each != end; each.increment(failed)) {
    std::error_code unreadable;
    const fs::path file = each->path() / "information";
    if (fs::exists(file, unreadable)) files.push_back(file);
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Returns the first group of the first match, line by line.
std::optional<std::string> first(const std::string& text, const char* pattern) {
  const std::regex wanted(pattern);
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (std::regex_search(line, match, wanted)) return match[1].str();
  }
  return std::nullopt;
}

}  // namespace

Gpu read_gpu(int index, const fs::path& folder) {
  const std::string unknown = "cuda:" + std::to_string(index);
  const std::vector<fs::path> files = information_files(folder);
  if (index < 0 || static_cast<std::size_t>(index) >= files.size()) return {unknown, ""};
  const std::optional<std::string> facts = content(files[static_cast<std::size_t>(index)]);
  const std::optional<std::string> version = content(folder / "version");
  if (!facts || !version) return {unknown, ""};
  return {first(*facts, R"(^Model:\s*(.+?)\s*$)").value_or(unknown),
          first(*version, R"(Kernel Module.*?\s([0-9]+\.[0-9.]+))").value_or("")};
}

}  // namespace ar
