// The life of one request: checked, then run phase by phase, giving out text; runtime/request.py.
//
// What it knows: an engine, sampling, stopping, the clock. What it does not know: other requests, closing, loading.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/answer.hpp"
#include "runtime/cancellation.hpp"
#include "runtime/engine.hpp"
#include "runtime/image.hpp"
#include "runtime/sampling.hpp"

namespace ar {

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

// A request whose words have been checked; the image is read when it runs.
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
