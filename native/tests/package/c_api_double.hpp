// A double of the C interface for the wrapper's tests.
//
// What it is: every `ar_*` function, computing nothing. What it knows: what it was called with, what it is to return,
// and which handles are alive. What it does not know: bundles, and the wrapper.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "allrounder/c_api.h"

struct ar_error {
  ar_status status;
  std::string name, message;
};

namespace ar_double {

// What a call saw, copied, since its texts live for the call only.
struct Loaded {
  std::string bundle;
  ar_load_options options;
  std::string version, device, ort_library, openvino_library;
};
struct Part {
  ar_part part;
  std::string text;
};
struct Message {
  std::size_t size;
  std::string role;
  std::vector<Part> parts;
};
struct Asked {
  ar_request request;
  std::vector<Message> messages;
  std::string text;
  std::vector<std::int64_t> ids;
  std::vector<Part> images;
  std::vector<std::string> stop;
};

struct World {
  Loaded loaded{};
  std::vector<Asked> asked;  // one after the other
  int closed_with = -1;  // `cancel` of the last ar_runtime_close
  std::function<void(const ar_load_options&)> on_load, on_close, on_free;
  std::function<int(const ar_request&)> on_generate;  // not 0: the request ends as cancelled
  ar_error* fail = nullptr;                           // the next call that can fail returns it
  std::map<std::string, int> alive;                   // handles by kind
};

World& world();
void reset();

}  // namespace ar_double
