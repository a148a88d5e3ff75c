#include "contract/choice.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>
#include <tuple>

#include "contract/error.hpp"
#include "contract/utf8.hpp"

namespace ar {
namespace {

__extension__ typedef unsigned __int128 Product;  // 576 tokens times the layers of any manifest

constexpr double kUnknown = std::numeric_limits<double>::infinity();

std::optional<double> kl_of(const Entry& entry) {
  return entry.fidelity ? std::optional<double>(entry.fidelity->kl) : std::nullopt;
}

// Returns the KL with which `full` counts at a precision: the lowest there, 0 where its own is unknown.
double full_kl(const std::vector<Entry>& entries, const std::string& precision) {
  std::optional<double> lowest;
  for (const Entry& entry : entries) {
    if (entry.precision != precision) continue;
    const std::optional<double> kl = entry.pruning.version == kFull && !entry.fidelity ? 0.0 : kl_of(entry);
    if (kl && (!lowest || *kl < *lowest)) lowest = kl;
  }
  return lowest.value_or(0.0);
}

// The rank of an entry: the smallest is the most faithful.
struct Rank {
  bool unknown;
  double kl;
  bool pruned;
  Product budget;  // the larger one first
  int bits;        // of the significand: the higher precision first
  std::size_t index;

  bool operator<(const Rank& other) const {
    return std::tie(unknown, kl, pruned, other.budget, other.bits, index) <
           std::tie(other.unknown, other.kl, other.pruned, budget, bits, other.index);
  }
};

int significand_bits(const std::string& precision) {
  if (precision == "fp32") return 24;
  return precision == "fp16" ? 11 : 8;
}

Rank rank(const std::vector<Entry>& entries, std::size_t index) {
  const Entry& entry = entries[index];
  const bool full = entry.pruning.version == kFull;
  const std::optional<double> kl = full ? std::optional<double>(full_kl(entries, entry.precision)) : kl_of(entry);
  // T x L for an image of 576 tokens: by it budgets are ordered, whatever a prompt's images are.
  const Product budget = static_cast<Product>(entry.pruning.keep.of(576)) * static_cast<Product>(entry.pruning.layers);
  return {!kl, kl.value_or(0.0), !full, budget, significand_bits(entry.precision), index};
}

// Returns an entry's latency where it counts on `machine` (null: anywhere), else null.
const Latency* figures(const Entry& entry, const Machine* machine) {
  if (!entry.latency || (machine && !(*machine == entry.latency->machine))) return nullptr;
  return &*entry.latency;
}

double at(const Percentiles& figures, int percentile) {
  return percentile == 50 ? figures.p50 : percentile == 95 ? figures.p95 : figures.p99;
}

// Returns the entry's figure over the target's, the worse of the two; up to 1 meets it, infinite is unknown.
double miss(const Entry& entry, const LatencyTarget& target, const Machine* machine) {
  const Latency* known = figures(entry, machine);
  if (!known) return kUnknown;
  double worst = -kUnknown;
  if (target.ttft_ms) worst = std::max(worst, at(known->ttft_ms, target.percentile) / *target.ttft_ms);
  if (target.tpot_ms) worst = std::max(worst, at(known->tpot_ms, target.percentile) / *target.tpot_ms);
  return worst;
}

template <class... Values>
std::string formatted(const char* format, Values... values) {
  char buffer[1024];  // the longest number of ours has 309 digits before its point
  std::snprintf(buffer, sizeof buffer, format, values...);
  return buffer;
}

void check_figure(const char* name, const std::optional<double>& value) {
  if (!value || (std::isfinite(*value) && *value > 0)) return;
  throw Error(AR_INPUT_INVALID, "impossible latency target",
              {name, formatted("%g", *value), "milliseconds above 0", ""});
}

}  // namespace

void LatencyTarget::check() const {
  if (!ttft_ms && !tpot_ms)
    throw Error(AR_INPUT_INVALID, "a latency target names at least one figure", {"", "", "ttft_ms or tpot_ms", ""});
  check_figure("ttft_ms", ttft_ms);
  check_figure("tpot_ms", tpot_ms);
  if (percentile != 50 && percentile != 95 && percentile != 99)
    throw Error(AR_INPUT_INVALID, "unknown percentile", {"", std::to_string(percentile), "50, 95 or 99", ""});
}

std::string LatencyTarget::text() const {
  std::string text = ttft_ms ? formatted("ttft <= %g ms", *ttft_ms) : "";
  if (ttft_ms && tpot_ms) text += " and ";
  if (tpot_ms) text += formatted("tpot <= %g ms", *tpot_ms);
  return text + " at p" + std::to_string(percentile);
}

std::vector<std::size_t> by_faithfulness(const std::vector<Entry>& entries) {
  std::vector<Rank> ranks;
  for (std::size_t index = 0; index < entries.size(); ++index) ranks.push_back(rank(entries, index));
  std::sort(ranks.begin(), ranks.end());
  std::vector<std::size_t> order;
  for (const Rank& each : ranks) order.push_back(each.index);
  return order;
}

std::string latency_table(const std::vector<Entry>& entries, const LatencyTarget& target, const Machine* machine) {
  std::size_t width = 0;
  for (const Entry& entry : entries) width = std::max(width, utf8::count(entry.label()));
  std::string table;
  for (const std::size_t index : by_faithfulness(entries)) {
    const std::string label = entries[index].label();
    const std::string spaces(width - utf8::count(label), ' ');
    std::string text = "not measured on this machine";
    if (const Latency* known = figures(entries[index], machine)) {
      text = formatted("ttft %9.2f ms  tpot %8.2f ms  (p%d)", at(known->ttft_ms, target.percentile),
                       at(known->tpot_ms, target.percentile), target.percentile);
    }
    table.append(table.empty() ? "  " : "\n  ").append(label).append(spaces).append("  ").append(text);
  }
  return table;
}

std::size_t choose(const std::vector<Entry>& entries, const std::optional<LatencyTarget>& target,
                   const Machine* machine, bool fastest) {
  if (entries.empty()) throw Error(AR_INPUT_INVALID, "there is no entry to choose from");
  const std::vector<std::size_t> order = by_faithfulness(entries);
  if (!target) return order[0];
  target->check();
  std::size_t nearest = order[0];
  double least = kUnknown;
  for (const std::size_t index : order) {
    const double missed = miss(entries[index], *target, machine);
    if (missed <= 1) return index;
    if (missed < least) nearest = index, least = missed;
  }
  if (fastest && std::isfinite(least)) return nearest;
  const char* const remedy = std::isfinite(least)
                                 ? "loosen the target, build a smaller version, or fall back to the fastest"
                                 : "record latencies here (`allrounder calibrate BUNDLE --calib FILE`, for all usable "
                                   "cores), or name a version";
  throw Error(AR_NO_ENGINE_MEETS_TARGET,
              "no engine meets the target\n" + latency_table(entries, *target, machine) + "\n",
              {"", "", target->text(), remedy});
}

}  // namespace ar
