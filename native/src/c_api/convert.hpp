// Between the structs of the C interface and the runtime's records. All throw AR_INPUT_INVALID.
#pragma once

#include "allrounder/c_api.h"
#include "runtime/runtime.hpp"

namespace ar {

LoadOptions load_options_of(const ar_load_options* given);  // NULL: the defaults
Request request_of(const ar_request& raw);
ar_timing timing_of(const Timing& timing);

}  // namespace ar
