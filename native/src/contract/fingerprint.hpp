// The machine's fingerprint, by the rules of allrounder/fingerprint.py, so that both languages agree on a machine.
#pragma once

#include <string>

#include "contract/manifest.hpp"

namespace ar {

// Returns how many cores this process may use, after affinity and cgroup quota.
int usable_cores();

// Returns this machine's fingerprint; threads 0 means all usable cores.
Machine machine(const std::string& backend, int threads, const std::string& gpu = "", const std::string& driver = "");

}  // namespace ar
