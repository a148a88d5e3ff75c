// The life of requests: checked, then run phase by phase, giving out text; runtime/request.py. One alone, or several
// that are decoded together.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
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

struct Rendered {  // a prompt as text, with the model's image token once per image
  std::string text;
};
using Ids = std::vector<int64_t>;  // the same as ids, with the placeholder's id once per image

struct Request {
  std::variant<std::vector<Message>, Rendered, Ids> prompt;
  std::vector<Image> images;              // in the order of their places in the prompt
  std::optional<double> keep;             // how much of each image stays; default: as the entry's version says
  std::optional<int64_t> max_new_tokens;  // counts the stop token; default 128, or the bundle's limit if lower
  Sampling sampling;
  std::vector<std::string> stop;  // texts that end the answer and are not part of it
  Cancellation cancel;
  PieceFn piece;  // empty: no streaming
};

// Milliseconds of one request, by phase; what is between the phases (tokenising, callbacks) is in none. A step in which
// several requests are decoded counts in full for each.
struct Timing {
  double preprocess_ms = 0, vision_ms = 0, router_ms = 0, prefill_ms = 0, decode_ms = 0;
  double ttft_ms = 0;             // image in to first token out
  std::optional<double> tpot_ms;  // mean over the further tokens, where there is one
};

struct Usage {  // numbers of tokens
  int64_t text_tokens = 0, image_tokens = 0, kept_image_tokens = 0, new_tokens = 0;
};

enum class Finish {
  kStop,   // a stop token or a stop text
  kLength  // max_new_tokens were drawn
};

struct Answer {
  std::string text;                   // without stop token and stop text
  std::vector<int64_t> token_ids;     // every token drawn, the stop token included
  std::vector<int64_t> prompt_ids;    // the prompt's text tokens, those around its images, in one row
  std::vector<int64_t> keep_indices;  // the image tokens that reached the layers from K on
  std::vector<int64_t> kept_layers;   // the decoder layers that were executed
  Usage usage;
  Timing timing;
  Finish finish = Finish::kLength;
};

struct Outcome {  // of one request of several: an answer, or what was thrown
  std::optional<Answer> answer;
  std::exception_ptr error;
};

// Throws to end a request; called before each step.
using Check = std::function<void()>;

// Answers one request. `closing` is a check besides the request's own cancellation. Throws AR_INPUT_INVALID,
// AR_INVALID_BUDGET, AR_PROMPT_TOO_LONG, AR_IMAGE_INVALID, AR_BACKEND_ERROR, AR_REQUEST_CANCELLED (also by its callback).
Answer answer(const Engine& engine, const Request& request, const Check& closing);

// Answers several requests: where layers are static by decoding them together, else one after the other. What ends one
// of them ends that one alone. Throws AR_INPUT_INVALID: more than the bundle's limit.
std::vector<Outcome> answer_all(const Engine& engine, const std::vector<Request>& requests, const Check& closing);

}  // namespace ar
