#include "runtime/sampling.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <string>

#include "contract/error.hpp"

namespace ar {
namespace {

void require(bool fine, const char* name, double got, const char* wanted) {
  if (!fine) throw Error(AR_INPUT_INVALID, "impossible sampling option", {name, std::to_string(got), wanted, ""});
}

// Returns the first of the largest logits.
int64_t best(const std::vector<float>& logits) {
  const auto nan = std::find_if(logits.begin(), logits.end(), [](float value) { return std::isnan(value); });
  const auto index = std::distance(logits.begin(), std::max_element(logits.begin(), logits.end()));
  const float value = nan != logits.end() ? *nan : logits.at(static_cast<std::size_t>(index));
  if (!std::isfinite(value)) {
    throw Error(AR_BACKEND_ERROR, "the engine gave logits that are not numbers",
                {"", std::to_string(value), "", "build it anew"});
  }
  return index;
}

uint64_t fresh_seed() {
  std::random_device system;
  return (uint64_t{system()} << 32) | system();
}

double sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

void keep_top_k(const std::vector<float>& logits, int64_t top_k, std::vector<double>& shares) {
  const auto count = static_cast<std::size_t>(top_k);
  if (count == 0 || count >= logits.size()) return;
  std::vector<float> sorted = logits;
  const auto last = sorted.begin() + static_cast<std::ptrdiff_t>(count - 1);
  std::nth_element(sorted.begin(), last, sorted.end(), std::greater<>());
  for (std::size_t id = 0; id < logits.size(); ++id) {
    if (logits[id] < *last) shares[id] = 0;
  }
}

void keep_top_p(const std::vector<float>& logits, double top_p, std::vector<double>& shares) {
  if (top_p >= 1) return;
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  const double wanted = top_p * sum(shares);
  double reached = 0;
  bool full = false;
  for (const std::size_t id : order) {
    if (full) {
      shares[id] = 0;
      continue;
    }
    reached += shares[id];
    full = reached >= wanted;
  }
}

// Returns the probabilities, not normalised, of the tokens that may be drawn, 0 for the others.
std::vector<double> shares_of(const std::vector<float>& logits, const Sampling& sampling) {
  const double top = *std::max_element(logits.begin(), logits.end());
  std::vector<double> shares(logits.size());
  std::transform(logits.begin(), logits.end(), shares.begin(),
                 [&](float value) { return std::exp((static_cast<double>(value) - top) / sampling.temperature); });
  keep_top_k(logits, sampling.top_k, shares);
  keep_top_p(logits, sampling.top_p, shares);
  return shares;
}

}  // namespace

void Sampling::check() const {
  require(std::isfinite(temperature) && temperature >= 0, "temperature", temperature, "0 or more");
  require(top_k >= 0, "top_k", static_cast<double>(top_k), "0 (all) or more");
  require(std::isfinite(top_p) && top_p > 0 && top_p <= 1, "top_p", top_p, "above 0, up to 1");
}

Picker::Picker(const Sampling& sampling)
    : sampling_(sampling), random_(sampling.seed ? *sampling.seed : fresh_seed()) {}

int64_t Picker::operator()(const std::vector<float>& logits) {
  const int64_t greedy = best(logits);
  if (sampling_.temperature == 0) return greedy;
  const std::vector<double> shares = shares_of(logits, sampling_);
  // 53 bits of the engine, which is the same everywhere; the library's distributions need not be.
  const double drawn = static_cast<double>(random_() >> 11) * 0x1p-53 * sum(shares);
  double reached = 0;
  int64_t last = greedy;  // where rounding leaves `drawn` at the very end: the last that may be drawn
  for (std::size_t id = 0; id < shares.size(); ++id) {
    if (shares[id] == 0) continue;
    reached += shares[id];
    last = static_cast<int64_t>(id);
    if (reached > drawn) break;
  }
  return last;
}

}  // namespace ar
