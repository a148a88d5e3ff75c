#include "arguments.hpp"

#include <algorithm>
#include <iostream>

namespace tool {
namespace {

bool holds(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

constexpr std::int64_t kMostThreads = 1024;

// Reads the whole of a text with one of std::sto*.
template <class Read>
auto number(const std::string& name, const std::string& text, Read read) {
  std::size_t used = 0;
  try {
    const auto value = read(text, &used);
    if (used == text.size()) return value;
  } catch (const std::logic_error&) {  // what std::sto* throw for no number, and for one that is too large
  }
  throw UsageError("--" + name + " " + text + ": a number is wanted");
}

}  // namespace

const std::vector<std::string> kLoadOptions = {"version", "ttft-ms", "tpot-ms", "percentile",
                                               "fallback", "threads", "weights", "device",
                                               "provider"};

Arguments::Arguments(const std::vector<std::string>& line, const std::vector<std::string>& words,
                     const std::vector<std::string>& options, const std::vector<std::string>& flags) {
  for (std::size_t index = 0; index < line.size(); ++index) {
    if (line[index].rfind("--", 0) != 0) {
      words_.push_back(line[index]);
      continue;
    }
    const std::string name = line[index].substr(2);
    const bool is_flag = holds(flags, name);
    if (!is_flag && !holds(options, name)) throw UsageError("unknown option --" + name);
    if (!is_flag && index + 1 == line.size()) throw UsageError("--" + name + " needs a value");
    values_[name] = is_flag ? "" : line[++index];
  }
  if (words_.size() == words.size()) return;
  std::string wanted;
  for (const std::string& word : words) wanted += " " + word;
  throw UsageError("wanted:" + wanted);
}

std::optional<std::string> Arguments::text(const std::string& name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<std::int64_t> Arguments::whole(const std::string& name, std::int64_t low, std::int64_t high) const {
  const std::optional<std::string> given = text(name);
  if (!given) return std::nullopt;
  const std::int64_t value =
      number(name, *given, [](const std::string& digits, std::size_t* used) { return std::stoll(digits, used); });
  if (value >= low && value <= high) return value;
  throw UsageError("--" + name + " " + *given + ": at least " + std::to_string(low) + " is wanted, and at most " +
                   std::to_string(high));
}

std::optional<double> Arguments::real(const std::string& name) const {
  const std::optional<std::string> given = text(name);
  if (!given) return std::nullopt;
  return number(name, *given, [](const std::string& digits, std::size_t* used) { return std::stod(digits, used); });
}

allrounder::LoadOptions load_options(const Arguments& arguments) {
  allrounder::LoadOptions options;
  options.version = arguments.text("version");
  options.ttft_ms = arguments.real("ttft-ms");
  options.tpot_ms = arguments.real("tpot-ms");
  if (const auto percentile = arguments.whole("percentile", 1, 99))
    options.percentile = static_cast<std::int32_t>(*percentile);
  if (const auto fallback = arguments.text("fallback")) {
    if (*fallback != "fastest") throw UsageError("--fallback " + *fallback + ": fastest");
    options.fallback_fastest = true;
  }
  if (const auto threads = arguments.whole("threads", 1, kMostThreads))
    options.threads = static_cast<std::int32_t>(*threads);
  options.device = arguments.text("device").value_or("cpu");
  options.provider = arguments.text("provider").value_or("cuda");
  const std::string weights = arguments.text("weights").value_or("fast");
  if (weights != "fast" && weights != "shared") throw UsageError("--weights " + weights + ": fast or shared");
  options.weights = weights == "fast" ? AR_WEIGHTS_FAST : AR_WEIGHTS_SHARED;
  options.log = [](ar_level, std::string_view message) { std::cerr << message << "\n"; };
  return options;
}

}  // namespace tool
