#include "contract/tensors.hpp"

#include <limits>

namespace ar::tensors {

std::optional<int64_t> cache_layer(const std::string& input) {
  const std::size_t digits = input.find('.') + 1;  // 0 without a dot
  if (input.rfind(kCachePrefix, 0) != 0 || digits == 0) return std::nullopt;
  const std::string number = input.substr(digits);
  const bool plain = !number.empty() && number.size() <= std::numeric_limits<int32_t>::digits10 &&
                     number.find_first_not_of("0123456789") == std::string::npos;
  return plain ? std::optional<int64_t>(std::stoll(number)) : std::nullopt;
}

std::optional<std::string> cache_output(const std::string& input) {
  if (!cache_layer(input)) return std::nullopt;
  const std::size_t dot = input.find('.');
  return input.substr(0, dot) + kCacheOutSuffix + input.substr(dot);
}

}  // namespace ar::tensors
