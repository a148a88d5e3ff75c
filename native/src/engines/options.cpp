#include "engines/options.hpp"

#include <algorithm>

#include "contract/error.hpp"
#include "contract/fingerprint.hpp"

namespace ar {
namespace {

constexpr const char* kCuda = "cuda";
constexpr std::size_t kMostDigits = 4;  // of a device's index

bool is_cuda(const std::string& device) {
  if (device == kCuda) return true;
  const std::string prefix = std::string(kCuda) + ":";
  if (device.compare(0, prefix.size(), prefix) != 0) return false;
  const std::string digits = device.substr(prefix.size());
  return !digits.empty() && digits.size() <= kMostDigits &&
         std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

void EngineOptions::check() const {
  if (threads < 0) {
    throw Error(AR_INPUT_INVALID, "impossible number of threads",
                {"threads", std::to_string(threads), "1 or more, or 0 for all usable cores", ""});
  }
  if (weights != Weights::kFast && weights != Weights::kShared) {
    throw Error(AR_INPUT_INVALID, "unknown mode", {"weights", "", "'fast' or 'shared'", ""});
  }
  if (!on_cpu() && !is_cuda(device)) {
    throw Error(AR_INPUT_INVALID, "unknown device", {"device", quoted(device), "'cpu', 'cuda' or 'cuda:1'", ""});
  }
  if (provider != kCuda && !on_tensorrt()) {
    throw Error(AR_INPUT_INVALID, "unknown provider", {"provider", quoted(provider), "'cuda' or 'tensorrt'", ""});
  }
  if (on_tensorrt() && on_cpu()) {
    throw Error(AR_INPUT_INVALID, "TensorRT needs a GPU",
                {"provider", "'tensorrt' on 'cpu'", "", "give device 'cuda' as well"});
  }
}

int EngineOptions::thread_count() const { return threads > 0 ? threads : usable_cores(); }

int EngineOptions::device_index() const {
  const std::size_t colon = device.find(':');
  return colon == std::string::npos ? 0 : std::stoi(device.substr(colon + 1));
}

}  // namespace ar
