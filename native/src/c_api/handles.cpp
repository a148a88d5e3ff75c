#include "c_api/handles.hpp"

#include "text/utf8.hpp"

namespace ar {

ar_error* no_memory() noexcept {
  static ar_error error{AR_INTERNAL, "no memory"};  // short enough to need none itself
  return &error;
}

ar_error* new_error(ar_status status, const char* message) noexcept {
  try {
    return new ar_error{status, utf8::lossy(message)};  // a path in it may be anything
  } catch (...) {
    return no_memory();
  }
}

}  // namespace ar
