// One run of a request: its phases, and its answer as it grows. Who runs it decodes: alone, or with others.
#pragma once

#include <chrono>

#include "runtime/request.hpp"
#include "text/pieces.hpp"

namespace ar {

// Adds the time of its life to a sum.
class Phase {
 public:
  using Clock = std::chrono::steady_clock;
  static double since(Clock::time_point started) {
    return std::chrono::duration<double, std::milli>(Clock::now() - started).count();
  }

  explicit Phase(double& milliseconds) : milliseconds_(milliseconds), started_(Clock::now()) {}
  Phase(const Phase&) = delete;
  Phase& operator=(const Phase&) = delete;
  ~Phase() { milliseconds_ += since(started_); }

 private:
  double& milliseconds_;
  Clock::time_point started_;
};

// Tokens to text that may go out; without a tokenizer there is none.
class Output {
 public:
  Output(const Engine& engine, const std::vector<std::string>& stop);
  std::string add(int64_t token) { return has_text_ ? stops_.add(detokeniser_.add(token)) : ""; }
  std::string finish();
  bool reached() const { return stops_.reached(); }

 private:
  bool has_text_;
  Detokeniser detokeniser_;
  StopTexts stops_;
};

class Run {
 public:
  // Checks a request, and reads its images: they may change afterwards. Engine, request and `closing` must live as long.
  // Throws AR_INPUT_INVALID, AR_PROMPT_TOO_LONG, AR_IMAGE_INVALID, AR_BACKEND_ERROR.
  Run(const Engine& engine, const Request& request, const Check& closing);

  const Task& task() const { return task_; }
  const std::optional<Scores>& scores() const { return scores_; }
  void check() const;  // throws AR_REQUEST_CANCELLED
  void embed();        // vision tower and router
  // Runs the prompt into a slot, after `embed` where that was not called yet, and takes its first token.
  void prefill(Pool& pool, int64_t slot);
  int64_t last_token() const { return answer_.token_ids.back(); }
  // Draws a token from the logits that `milliseconds` of decoding gave, and gives out the text that it completes. Throws
  // AR_BACKEND_ERROR, or AR_REQUEST_CANCELLED by the callback.
  void take(const std::vector<float>& logits, double milliseconds);
  bool done() const;
  Answer finish();  // what is still held back goes out

 private:
  int64_t count() const { return static_cast<int64_t>(answer_.token_ids.size()); }
  std::string draw(const std::vector<float>& logits);
  void give(const std::string& piece);

  const Engine& engine_;
  const Request& request_;
  const Check& closing_;
  Task task_;
  int64_t max_new_tokens_ = 0;
  PreparedImages images_;
  TensorPtr image_embeds_;
  std::optional<Scores> scores_;
  Picker pick_;
  Output output_;
  Answer answer_;
  bool stopped_ = false;
};

}  // namespace ar
