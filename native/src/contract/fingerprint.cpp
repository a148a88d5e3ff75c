#include "contract/fingerprint.hpp"

#include <sched.h>
#include <sys/utsname.h>

#include <algorithm>
#include <charconv>
#include <sstream>
#include <thread>

#include "contract/files.hpp"
#include "contract/utf8.hpp"

namespace ar {
namespace {

namespace fs = std::filesystem;

std::string stripped(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\f\v";
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(kSpace) - begin + 1));
}

std::optional<int64_t> integer(const std::string& text) {
  const std::string digits = stripped(text);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

std::optional<double> share(const std::optional<int64_t>& limit, const std::optional<int64_t>& period) {
  if (!limit || !period || *period == 0) return std::nullopt;
  return static_cast<double>(*limit) / static_cast<double>(*period);
}

int64_t affinity() {
  // The mask must hold every processor the kernel could know.
  for (std::size_t processors = 1024; processors <= 1 << 20; processors *= 2) {
    cpu_set_t* mask = CPU_ALLOC(processors);
    const bool known = mask && sched_getaffinity(0, CPU_ALLOC_SIZE(processors), mask) == 0;
    const int count = known ? CPU_COUNT_S(CPU_ALLOC_SIZE(processors), mask) : 0;
    CPU_FREE(mask);
    if (known) return count;
  }
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

std::string cpu_model(const fs::path& root) {
  std::istringstream lines(read_file(root / "proc/cpuinfo").value_or(""));
  for (std::string line; std::getline(lines, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos || stripped(line.substr(0, colon)) != "model name") continue;
    const std::string value = stripped(line.substr(colon + 1));
    if (!value.empty()) return utf8::lossy(value);
  }
  utsname names{};
  return uname(&names) == 0 ? names.machine : "";
}

std::optional<double> cgroup_quota(const fs::path& root) {
  std::istringstream words(read_file(root / "sys/fs/cgroup/cpu.max").value_or(""));
  std::string limit, period, more;
  if (words >> limit >> period && !(words >> more)) {
    if (limit == "max") return std::nullopt;
    if (const auto quota = share(integer(limit), integer(period))) return quota;
  }
  const fs::path folder = root / "sys/fs/cgroup/cpu";
  const std::optional<int64_t> quota_us = integer(read_file(folder / "cpu.cfs_quota_us").value_or(""));
  if (quota_us && *quota_us < 0) return std::nullopt;
  return share(quota_us, integer(read_file(folder / "cpu.cfs_period_us").value_or("")));
}

int64_t quota_cores(int64_t available, const std::optional<double>& quota) {
  // A quota of 0 is none, as no process could run under it.
  if (!quota || *quota == 0) return std::max<int64_t>(1, available);
  return std::max<int64_t>(1, *quota < static_cast<double>(available) ? static_cast<int64_t>(*quota) : available);
}

int usable_cores() { return static_cast<int>(quota_cores(affinity(), cgroup_quota("/"))); }

Machine machine(const std::string& backend, int threads, const std::string& gpu, const std::string& driver) {
  const int cores = usable_cores();
  return {cpu_model("/"), cores, threads ? threads : cores, backend, gpu, driver};
}

}  // namespace ar
