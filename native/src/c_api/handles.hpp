// The handles of the C interface, and its one catch point.
#pragma once

#include <string>
#include <utility>

#include "contract/bundle.hpp"
#include "contract/error.hpp"
#include "runtime/runtime.hpp"

struct ar_error {
  ar_status status;
  std::string message;
};

struct ar_bundle {
  ar::OpenBundle opened;
};

struct ar_runtime {
  std::unique_ptr<ar::Runtime> runtime;
  std::string entry;  // as JSON
};

struct ar_answer {
  ar::Answer answer;
};

struct ar_prompt {
  std::vector<int64_t> ids;
};

struct ar_cancellation {
  ar::Cancellation cancellation;
};

namespace ar {

// The error that is there when there is no memory for one; never freed.
ar_error* no_memory() noexcept;

ar_error* new_error(ar_status status, const char* message) noexcept;

// Runs what a call does; every exception ends here.
template <class Work>
ar_error* guard(Work&& work) noexcept {
  try {
    std::forward<Work>(work)();
    return nullptr;
  } catch (const Error& error) {
    return new_error(error.status(), error.what());
  } catch (const std::bad_alloc&) {
    return no_memory();
  } catch (const std::exception& error) {
    return new_error(AR_INTERNAL, error.what());
  } catch (...) {
    return new_error(AR_INTERNAL, "something was thrown that is no exception");
  }
}

inline void require(const void* argument, const char* name) {
  if (argument == nullptr) throw Error(AR_INPUT_INVALID, "an argument is missing", {name, "NULL", "", ""});
}

// The structs of the C interface as the runtime's records, and back; all throw AR_INPUT_INVALID.
LoadOptions load_options_of(const ar_load_options* given);  // NULL: the defaults
Request request_of(const ar_request& raw);
std::vector<Message> messages_of(const ar_message* messages, std::size_t count, std::vector<Image>& images);
ar_timing timing_of(const Timing& timing);
ar_usage usage_of(const Usage& usage);

}  // namespace ar
