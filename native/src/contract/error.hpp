// The one error of the native half.
//
// It carries a status of the C interface and a message of five parts, put together as in allrounder.errors.
#pragma once

#include <stdexcept>
#include <string>

#include "allrounder/c_api.h"

namespace ar {

// The parts of a message beyond the fact itself; empty ones are left out.
struct Facts {
  std::string where;   // file, key, graph or argument
  std::string got;     // the offending value
  std::string wanted;  // what would have been right
  std::string remedy;  // what the user can do about it
};

class Error : public std::runtime_error {
 public:
  // `what` is one sentence without a full stop.
  Error(ar_status status, const std::string& what, const Facts& facts = {});
  ar_status status() const noexcept { return status_; }

 private:
  ar_status status_;
};

// Returns the name of a status in Python's error tree: AR_BUNDLE_CORRUPT -> "BundleCorrupt".
const char* error_name(ar_status status) noexcept;

// Returns `text` cut to `limit` bytes and with everything but printable ASCII written as \xNN, for messages that
// quote what may be hostile.
std::string quoted(const std::string& text, std::size_t limit = 200);

}  // namespace ar
