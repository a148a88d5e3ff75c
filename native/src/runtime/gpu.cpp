#include "runtime/gpu.hpp"

#include <algorithm>
#include <optional>
#include <sstream>
#include <system_error>
#include <vector>

#include "contract/files.hpp"

namespace ar {
namespace {

namespace fs = std::filesystem;

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

// Returns what stands behind `mark` in the first line that has it; without white space around it.
std::optional<std::string> after(const std::string& text, const std::string& mark) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t found = line.find(mark);
    if (found == std::string::npos) continue;
    const std::size_t first = line.find_first_not_of(" \t\r", found + mark.size());
    if (first == std::string::npos) return std::nullopt;
    return line.substr(first, line.find_last_not_of(" \t\r") + 1 - first);
  }
  return std::nullopt;
}

// Returns the first word that begins as a version does: digits, a point, digits and points.
std::string version_in(const std::string& text) {
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    const std::string version = word.substr(0, word.find_first_not_of("0123456789."));
    const std::size_t point = version.find('.');
    if (point != 0 && point != std::string::npos && point + 1 < version.size()) return version;
  }
  return "";
}

}  // namespace

Gpu read_gpu(int index, const fs::path& folder) {
  const std::string unknown = "cuda:" + std::to_string(index);
  const std::vector<fs::path> files = information_files(folder);
  if (index < 0 || static_cast<std::size_t>(index) >= files.size()) return {unknown, ""};
  const std::optional<std::string> facts = read_file(files[static_cast<std::size_t>(index)]);
  const std::optional<std::string> version = read_file(folder / "version");
  if (!facts || !version) return {unknown, ""};
  return {after(*facts, "Model:").value_or(unknown), version_in(after(*version, "Kernel Module").value_or(""))};
}

}  // namespace ar
