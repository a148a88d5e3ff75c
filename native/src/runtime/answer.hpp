// What a request gives back; the records of runtime/answer.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace ar {

// Milliseconds of one request, by phase; what lies between the phases (tokenising, callbacks) is in none.
struct Timing {
  double preprocess_ms = 0, vision_ms = 0, router_ms = 0, prefill_ms = 0, decode_ms = 0;
  double ttft_ms = 0;             // image in to first token out
  std::optional<double> tpot_ms;  // mean over the further tokens, where there is one
};

enum class Finish {
  kStop,   // a stop token or a stop text
  kLength  // max_new_tokens were drawn
};

struct Answer {
  std::string text;                 // without stop token and stop text
  std::vector<int64_t> token_ids;   // every token drawn, the stop token included
  std::vector<int64_t> prompt_ids;  // before the image and after it, in one row
  std::vector<int64_t> keep_indices;   // the image tokens that reached the layers from K on
  std::vector<int64_t> kept_layers;  // the decoder layers that were executed
  Timing timing;
  Finish finish = Finish::kLength;
};

}  // namespace ar
