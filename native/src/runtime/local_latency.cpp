#include "runtime/local_latency.hpp"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <sstream>

#include "contract/error.hpp"
#include "contract/user_dirs.hpp"
#include "runtime/engine.hpp"
#include "runtime/measure.hpp"
#include "runtime/memory.hpp"

namespace ar {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRoundsAtLeast = 3;  // two of warm-up and one that counts
constexpr int kRepeats = 30;       // rounds where time allows

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double cost(const Entry& entry) { return static_cast<double>(entry.tokens) * static_cast<double>(entry.layers); }

struct Measured {
  LocalFigures figures;
  double seconds = 0;  // that opening, two rounds of warm-up and one round that counts take: the least
};

// Measures entries of one bundle within a time.
class Measurement {
 public:
  Measurement(const OpenBundle& bundle, std::vector<Entry> entries, const LocalOptions& options)
      : bundle_(bundle), cheapest_first_(std::move(entries)), options_(options) {
    std::stable_sort(cheapest_first_.begin(), cheapest_first_.end(),
                     [](const Entry& a, const Entry& b) { return cost(a) < cost(b); });
  }

  // Interleaved in one run where time and memory allow; else one after another, cheapest first, so that the limit costs
  // the slowest their figures.
  LocalFigures run() const {
    const Measured probe = together({cheapest_first_.front()}, {1, {}});
    double rounds = 0;
    for (const Entry& entry : cheapest_first_) rounds += cost(entry) / cost(cheapest_first_.front()) * probe.seconds;
    if (rounds < left() && fits(bundle_, cheapest_first_, options_.engine)) {
      return together(cheapest_first_, {kRepeats, left()}).figures;
    }
    LocalFigures figures = apart(probe.seconds);
    figures.insert(probe.figures.begin(), probe.figures.end());  // what was measured longer stays
    return figures;
  }

 private:
  double left() const { return options_.limit_seconds - seconds_since(started_); }

  // `effort.seconds` holds the opening too.
  Measured together(const std::vector<Entry>& entries, Effort effort) const {
    const Clock::time_point started = Clock::now();
    const std::vector<Engine> engines = open_engines(bundle_, entries, options_.engine, options_.with_text);
    const double opened = seconds_since(started);
    if (effort.seconds) effort.seconds = std::max(0.0, *effort.seconds - opened);
    const Workload workload = default_workload(engines.front());
    const std::vector<Latency> latencies = measure_latency(engines, workload, effort);
    Measured measured;
    double request_ms = 0;
    for (std::size_t index = 0; index < entries.size(); ++index) {
      const Latency& latency = latencies[index];
      request_ms += latency.ttft_ms.p50 + static_cast<double>(workload.new_tokens - 1) * latency.tpot_ms.p50;
      measured.figures[entries[index].label()] = latency;
    }
    measured.seconds = opened + kRoundsAtLeast * request_ms / 1000;
    return measured;
  }

  LocalFigures apart(double least) const {
    LocalFigures figures;
    for (std::size_t index = 0; index < cheapest_first_.size(); ++index) {
      const Entry& entry = cheapest_first_[index];
      if (left() < least) {  // the seconds that a cheaper one took at the least
        tell(options_.engine.log, Level::kWarning, "no time was left to measure " + entry.label());
        continue;
      }
      const Measured found =
          together({entry}, {kRepeats, left() / static_cast<double>(cheapest_first_.size() - index)});
      figures.insert(found.figures.begin(), found.figures.end());
      least = found.seconds;
    }
    return figures;
  }

  const OpenBundle& bundle_;
  std::vector<Entry> cheapest_first_;
  const LocalOptions& options_;
  Clock::time_point started_ = Clock::now();
};

LocalFigures measure(const OpenBundle& bundle, const std::vector<Entry>& entries, const LocalOptions& options) {
  const auto count = static_cast<int64_t>(entries.size());
  tell(options.engine.log, Level::kWarning,
       "the latencies in " + bundle.path.string() +
           " were not measured on this machine with these options: measuring " + std::to_string(count) +
           " entries, up to " + std::to_string(static_cast<int>(options.limit_seconds)) + " s");
  tell(options.progress, "measuring entries", 0, count);
  LocalFigures figures = Measurement(bundle, entries, options).run();
  tell(options.progress, "measuring entries", count, count);
  return figures;
}

// Returns the cached figures, or none where there are none to be used.
LocalFigures read(const std::optional<std::filesystem::path>& path, const Log& log) {
  std::error_code failed;
  if (!path || !std::filesystem::exists(*path, failed)) return {};
  try {
    std::ifstream file(*path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    if (!file) throw Error(AR_BUNDLE_CORRUPT, "the file cannot be read", {path->string(), "", "", ""});
    return decode_figures(text.str(), path->string());
  } catch (const Error& error) {
    tell(log, Level::kWarning, std::string("the cached latencies cannot be read: measuring again; ") + error.what());
    return {};
  }
}

void write(const std::optional<std::filesystem::path>& path, const LocalFigures& figures, const Log& log) {
  if (!path) {
    tell(log, Level::kWarning, "there is no cache directory: the latencies will be measured at every load by target");
  } else if (!write_whole(*path, encode_figures(figures))) {
    tell(log, Level::kWarning,
         "the latencies could not be kept in " + path->string() + ": they will be measured at every load by target");
  }
}

using Machines = std::map<std::string, Machine>;  // by backend

Machines machines_of(const std::vector<Entry>& entries, const EngineOptions& options) {
  Machines machines;
  for (const Entry& entry : entries) {
    if (machines.count(entry.backend) == 0) machines[entry.backend] = backend(entry.backend).machine(options);
  }
  return machines;
}

bool all_of_this(const std::vector<Entry>& entries, const Machines& machines) {
  return std::all_of(entries.begin(), entries.end(), [&](const Entry& entry) {
    return entry.latency && entry.latency->machine == machines.at(entry.backend);
  });
}

}  // namespace

std::vector<Entry> with_local_latency(const OpenBundle& bundle, std::vector<Entry> entries,
                                      const LocalOptions& options) {
  std::vector<Entry> known;
  std::copy_if(entries.begin(), entries.end(), std::back_inserter(known),
               [](const Entry& entry) { return entry.latency.has_value(); });
  const Machines machines = machines_of(entries, options.engine);
  const bool fast = options.engine.weights == Weights::kFast;
  if (!known.empty() && all_of_this(known, machines) && fast) return entries;
  std::vector<Machine> all;
  for (const auto& [name, machine] : machines) all.push_back(machine);
  const auto path = latency_cache_file(bundle.digest, options.engine, all);
  LocalFigures figures = read(path, options.engine.log);
  if (figures.empty()) {
    // An entry that the builder left unmeasured beside measured ones stays so: it is not to be chosen by target.
    figures = measure(bundle, known.empty() ? entries : known, options);
    write(path, figures, options.engine.log);
  }
  for (Entry& entry : entries) {
    const auto found = figures.find(entry.label());
    entry.latency = found == figures.end() ? std::nullopt : std::optional(found->second);
  }
  return entries;
}

}  // namespace ar
