// The command line: words, and options with values.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "allrounder/allrounder.hpp"

namespace tool {

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Arguments {
 public:
  // `flags` are options without a value. Throws UsageError: an option that is neither in `options` nor in `flags`, one
  // without its value, or another number of words than `words`, which names them.
  Arguments(const std::vector<std::string>& line, const std::vector<std::string>& words,
            const std::vector<std::string>& options, const std::vector<std::string>& flags);

  const std::string& word(std::size_t index) const { return words_.at(index); }
  bool flag(const std::string& name) const { return values_.count(name) != 0; }
  std::optional<std::string> text(const std::string& name) const;
  // Throws UsageError: no whole number, or one that is outside `low` to `high`.
  std::optional<std::int64_t> whole(const std::string& name, std::int64_t low, std::int64_t high = INT64_MAX) const;
  std::optional<double> real(const std::string& name) const;  // throws UsageError: no number

 private:
  std::vector<std::string> words_;
  std::map<std::string, std::string> values_;
};

// Options of loading that every command which runs something takes; their names are in `kLoadOptions`.
extern const std::vector<std::string> kLoadOptions;
allrounder::LoadOptions load_options(const Arguments& arguments);

}  // namespace tool
