// Between the structs of the C interface and the runtime's records. All throw AR_INPUT_INVALID.
#pragma once

#include "allrounder/c_api.h"
#include "runtime/runtime.hpp"

namespace ar {

Progress progress_of(ar_progress_fn progress, void* user);
LoadOptions load_options_of(const ar_load_options* given);  // NULL: the defaults
Request request_of(const ar_request& given);
ar_timing timing_of(const Timing& timing);

}  // namespace ar
