// The machine's fingerprint, by the rules of allrounder/fingerprint.py, so that both languages agree on a machine.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "contract/manifest.hpp"

namespace ar {

// Returns how many cores this process may use, after affinity and cgroup quota.
int usable_cores();

// Returns this machine's fingerprint; threads 0 means all usable cores.
Machine machine(const std::string& backend, int threads, const std::string& gpu = "", const std::string& driver = "");

// The parts, which read below `root`; "/" is the machine, tests have others.
std::string cpu_model(const std::filesystem::path& root);                    // else the machine type
std::optional<double> cgroup_quota(const std::filesystem::path& root);       // in cores; nothing without a quota
int64_t quota_cores(int64_t available, const std::optional<double>& quota);  // rounded down, at least 1

}  // namespace ar
