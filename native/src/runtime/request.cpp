#include "runtime/request.hpp"

#include <algorithm>
#include <chrono>

#include "contract/error.hpp"
#include "text/pieces.hpp"

namespace ar {
namespace {

constexpr int64_t kNewTokens = 128;  // each step's time grows with the slots set aside: the limit is no good default

// Adds the time of its life to a sum.
class Phase {
 public:
  explicit Phase(double& milliseconds) : milliseconds_(milliseconds), started_(Clock::now()) {}
  Phase(const Phase&) = delete;
  Phase& operator=(const Phase&) = delete;
  ~Phase() { milliseconds_ += std::chrono::duration<double, std::milli>(Clock::now() - started_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  double& milliseconds_;
  Clock::time_point started_;
};

// Tokens to text that may go out; without a tokenizer there is none.
class Output {
 public:
  Output(const Engine& engine, const std::vector<std::string>& stop)
      : has_text_(engine.has_text()),
        detokeniser_([&engine](const auto& ids) { return engine.text(ids); }),
        stops_(stop) {}
  std::string add(int64_t token) { return has_text_ ? stops_.add(detokeniser_.add(token)) : ""; }
  std::string finish() {
    if (!has_text_ || reached()) return "";
    std::string rest = stops_.add(detokeniser_.finish());
    return rest + stops_.finish();
  }
  bool reached() const { return stops_.reached(); }

 private:
  bool has_text_;
  Detokeniser detokeniser_;
  StopTexts stops_;
};

// One run of a request.
class Run {
 public:
  Run(const Engine& engine, const Request& request, const Prepared& prepared, const std::function<void()>& check)
      : engine_(engine),
        request_(request),
        prepared_(prepared),
        check_(check),
        pick_(request.sampling),
        output_(engine, request.stop) {}

  Answer whole() {
    Prefilled state = read_prompt();
    answer_.keep_indices = state.keep_indices;
    answer_.kept_layers = state.kept_layers;
    std::vector<float> logits = std::move(state.logits);
    bool stopped = draw(logits, first_ms_);
    const Timing& timing = answer_.timing;
    answer_.timing.ttft_ms = timing.preprocess_ms + timing.vision_ms + timing.router_ms + timing.prefill_ms + first_ms_;
    give(piece_);
    while (!stopped && !output_.reached() && count() < prepared_.max_new_tokens) {
      check_();
      {
        const Phase phase(answer_.timing.decode_ms);
        logits = engine_.decode(state, {answer_.token_ids.back()});
      }
      stopped = draw(logits, answer_.timing.decode_ms);
      give(piece_);
    }
    if (std::string rest = output_.finish(); !rest.empty()) give(rest);
    return finished(stopped);
  }

 private:
  int64_t count() const { return static_cast<int64_t>(answer_.token_ids.size()); }

  Prefilled read_prompt() {
    Timing& timing = answer_.timing;
    TensorPtr pixel_values, image_embeds;
    std::optional<Scores> scores;
    check_();
    {
      const Phase phase(timing.preprocess_ms);
      const Rgb rgb(request_.image);
      pixel_values = engine_.preprocess(rgb.array());
    }
    check_();
    {
      const Phase phase(timing.vision_ms);
      image_embeds = engine_.embed_pixels(pixel_values);
    }
    check_();
    {
      const Phase phase(timing.router_ms);
      scores = engine_.route(prepared_.prompt, image_embeds);
    }
    check_();
    const Phase phase(timing.prefill_ms);
    return engine_.prefill(prepared_.prompt, image_embeds, scores, prepared_.max_new_tokens - 1);
  }

  // Draws a token, and the text that it completes; returns whether it is a stop token.
  bool draw(const std::vector<float>& logits, double& milliseconds) {
    const Phase phase(milliseconds);
    const int64_t token = pick_(logits);
    answer_.token_ids.push_back(token);
    const std::vector<int64_t>& stop_ids = engine_.model().stop_ids;
    const bool stopped = std::find(stop_ids.begin(), stop_ids.end(), token) != stop_ids.end();
    piece_ = stopped ? "" : output_.add(token);
    return stopped;
  }

  void give(const std::string& piece) {
    answer_.text += piece;
    if (!request_.piece || (piece.empty() && engine_.has_text())) return;
    if (!request_.piece(piece, count())) {
      throw Error(AR_REQUEST_CANCELLED, "the request was cancelled by its callback");
    }
  }

  Answer finished(bool stopped) {
    answer_.prompt_ids = prepared_.prompt.prefix_ids;
    const std::vector<int64_t>& suffix = prepared_.prompt.suffix_ids;
    answer_.prompt_ids.insert(answer_.prompt_ids.end(), suffix.begin(), suffix.end());
    answer_.finish = stopped || output_.reached() ? Finish::kStop : Finish::kLength;
    if (count() > 1) answer_.timing.tpot_ms = answer_.timing.decode_ms / static_cast<double>(count() - 1);
    return std::move(answer_);
  }

  const Engine& engine_;
  const Request& request_;
  const Prepared& prepared_;
  const std::function<void()>& check_;
  Picker pick_;
  Output output_;
  Answer answer_;
  std::string piece_;
  double first_ms_ = 0;  // choosing the first token
};

int64_t new_tokens(const std::optional<int64_t>& wanted, int64_t limit) {
  if (!wanted) return std::min(kNewTokens, limit);
  if (*wanted < 1) {
    throw Error(AR_INPUT_INVALID, "impossible answer length",
                {"max_new_tokens", std::to_string(*wanted), "1 to " + std::to_string(limit), ""});
  }
  if (*wanted > limit) {
    throw Error(AR_PROMPT_TOO_LONG, "the answer would be too long",
                {"max_new_tokens", std::to_string(*wanted), "up to " + std::to_string(limit),
                 "ask for fewer tokens, or build the bundle with a higher limit"});
  }
  return *wanted;
}

PromptIds prompt_of(const Engine& engine, const Request& request) {
  if (const auto* question = std::get_if<std::string>(&request.prompt)) return engine.prompt(*question);
  const auto& ids = std::get<PromptIds>(request.prompt);
  engine.check(ids);
  return ids;
}

}  // namespace

Prepared prepare(const Engine& engine, const Request& request) {
  StopTexts{request.stop};  // refuses what are no stop texts
  if (!request.stop.empty() && !engine.has_text()) {
    throw Error(AR_INPUT_INVALID, "stop texts need a tokenizer", {"stop", "", "", "load without ids_only"});
  }
  Prepared prepared{prompt_of(engine, request), new_tokens(request.max_new_tokens, engine.limits().new_tokens)};
  request.sampling.check();  // last, as in Python: of two mistakes both languages name the same one
  return prepared;
}

Answer answer(const Engine& engine, const Request& request, const Prepared& prepared,
              const std::function<void()>& check) {
  return Run(engine, request, prepared, check).whole();
}

}  // namespace ar
