// The life of one request: checked, then run phase by phase, giving out text; runtime/request.py.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "contract/error.hpp"
#include "runtime/engine.hpp"
#include "runtime/image.hpp"
#include "runtime/sampling.hpp"

namespace ar {

// A flag by which one thread cancels requests, which read it between their steps. Copies share it, so that requests may
// outlive the object that cancels them.
class Cancellation {
 public:
  void cancel() const noexcept { flag_->store(true); }
  bool cancelled() const noexcept { return flag_->load(); }
  void check() const {
    if (cancelled()) throw Error(AR_REQUEST_CANCELLED, "the request was cancelled");
  }

 private:
  std::shared_ptr<std::atomic<bool>> flag_ = std::make_shared<std::atomic<bool>>(false);
};

// Given each piece of text as it comes, and how many tokens were drawn so far; false ends the request. Without a
// tokenizer it is called once per token with empty text.
using PieceFn = std::function<bool(std::string_view text, int64_t token_count)>;

struct Request {
  Image image;
  std::variant<std::string, PromptIds> prompt;  // a question, or ids in place of it
  std::optional<int64_t> max_new_tokens;        // counts the stop token; default 128, or the bundle's limit if lower
  Sampling sampling;
  std::vector<std::string> stop;  // texts that end the answer and are not part of it
  Cancellation cancel;
  PieceFn piece;  // empty: no streaming
};

// Milliseconds of one request, by phase; what is between the phases (tokenising, callbacks) is in none.
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
  std::string text;                   // without stop token and stop text
  std::vector<int64_t> token_ids;     // every token drawn, the stop token included
  std::vector<int64_t> prompt_ids;    // before the image and after it, in one row
  std::vector<int64_t> keep_indices;  // the image tokens that reached the layers from K on
  std::vector<int64_t> kept_layers;   // the decoder layers that were executed
  Timing timing;
  Finish finish = Finish::kLength;
};

// A request whose options have been checked; the image is read when it runs.
struct Prepared {
  PromptIds prompt;
  int64_t max_new_tokens = 0;
};

// Throws AR_INPUT_INVALID or AR_PROMPT_TOO_LONG.
Prepared prepare(const Engine& engine, const Request& request);

// Runs a request. `check` is called before each step, and throws to end it. Throws AR_IMAGE_INVALID, AR_BACKEND_ERROR,
// AR_REQUEST_CANCELLED (the callback ended it).
Answer answer(const Engine& engine, const Request& request, const Prepared& prepared,
              const std::function<void()>& check);

}  // namespace ar
