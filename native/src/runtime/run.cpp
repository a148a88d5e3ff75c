#include "runtime/run.hpp"

#include <algorithm>
#include <utility>

#include "contract/error.hpp"

namespace ar {
namespace {

constexpr int64_t kNewTokens = 128;  // each step's time grows with the slots set aside: the limit is no good default

std::vector<int64_t> ids_of(const Engine& engine, const Request& request) {
  if (const auto* messages = std::get_if<std::vector<Message>>(&request.prompt)) return engine.ids(*messages);
  if (const auto* rendered = std::get_if<Rendered>(&request.prompt)) return engine.rendered_ids(rendered->text);
  engine.check(std::get<Ids>(request.prompt));
  return std::get<Ids>(request.prompt);
}

int64_t new_tokens(const std::optional<int64_t>& wanted, const Engine& engine, const PromptLayout& layout) {
  const int64_t limit = engine.limits().new_tokens;
  const int64_t left = engine.model().max_positions - layout.next_position;
  const int64_t count = wanted ? *wanted : std::min({kNewTokens, limit, std::max(left, int64_t{1})});
  if (count < 1) {
    throw Error(AR_INPUT_INVALID, "impossible answer length",
                {"max_new_tokens", std::to_string(count), "1 to " + std::to_string(limit), ""});
  }
  if (count > limit) {
    throw Error(AR_PROMPT_TOO_LONG, "the answer would be too long",
                {"max_new_tokens", std::to_string(count), "up to " + std::to_string(limit),
                 "ask for fewer tokens, or build another bundle with a higher --max-new-tokens"});
  }
  if (count > left) {
    throw Error(AR_PROMPT_TOO_LONG, "prompt and answer are longer than the model's longest sequence",
                {"messages",
                 std::to_string(layout.text_tokens()) + " text + " + std::to_string(layout.image_tokens()) +
                     " image + " + std::to_string(count) + " new tokens",
                 "up to " + std::to_string(engine.model().max_positions),
                 "send less text or fewer images, or ask for fewer tokens with max_new_tokens"});
  }
  return count;
}

}  // namespace

Output::Output(const Engine& engine, const std::vector<std::string>& stop)
    : has_text_(engine.has_text()),
      detokeniser_([&engine](const auto& ids) { return engine.text(ids); }),
      stops_(stop) {
  if (stop.empty() || has_text_) return;
  throw Error(AR_INPUT_INVALID, "stop texts need a tokenizer", {"stop", "", "", "load without ids_only"});
}

std::string Output::finish() {
  if (!has_text_ || reached()) return "";
  std::string rest = stops_.add(detokeniser_.finish());
  return rest + stops_.finish();
}

Run::Run(const Engine& engine, const Request& request, const Check& closing)
    : engine_(engine),
      request_(request),
      closing_(closing),
      pick_(request.sampling),
      output_(engine, request.stop) {
  if (request.keep) task_.keep = requested_keep(*request.keep);
  const std::vector<int64_t> ids = ids_of(engine, request);
  engine.check_images(request.images.size());
  {
    const Phase phase(answer_.timing.preprocess_ms);
    images_ = engine.prepare(request.images);
  }
  task_.layout = engine.layout(ids, images_.planned);
  max_new_tokens_ = new_tokens(request.max_new_tokens, engine, task_.layout);
  task_.free_slots = max_new_tokens_ - 1;
  request.sampling.check();  // here, as in Python: of two mistakes both languages name the same one
  engine.check(task_);
}

void Run::check() const {
  request_.cancel.check();
  closing_();
}

void Run::embed() {
  check();
  {
    const Phase phase(answer_.timing.vision_ms);
    image_embeds_ = engine_.embed(std::exchange(images_, {}));
  }
  check();
  const Phase phase(answer_.timing.router_ms);
  scores_ = engine_.route(task_.layout, image_embeds_);
}

void Run::prefill(Pool& pool, int64_t slot) {
  if (!image_embeds_) embed();
  check();
  Timing& timing = answer_.timing;
  Prefilled state;
  {
    const Phase phase(timing.prefill_ms);
    state = engine_.prefill(pool, slot, task_, std::exchange(image_embeds_, nullptr), scores_);
  }
  answer_.keep_indices = std::move(state.keep_indices);
  answer_.kept_layers = std::move(state.kept_layers);
  timing.ttft_ms = timing.preprocess_ms + timing.vision_ms + timing.router_ms + timing.prefill_ms;
  std::string piece;
  {
    const Phase phase(timing.ttft_ms);
    piece = draw(state.logits);
  }
  give(piece);
}

void Run::take(const std::vector<float>& logits, double milliseconds) {
  answer_.timing.decode_ms += milliseconds;
  std::string piece;
  {
    const Phase phase(answer_.timing.decode_ms);
    piece = draw(logits);
  }
  give(piece);
}

bool Run::done() const { return stopped_ || output_.reached() || count() == max_new_tokens_; }

Answer Run::finish() {
  if (const std::string rest = output_.finish(); !rest.empty()) give(rest);
  const PromptLayout& layout = task_.layout;
  answer_.prompt_ids = layout.text_ids();
  answer_.usage = {layout.text_tokens(), layout.image_tokens(), static_cast<int64_t>(answer_.keep_indices.size()),
                   count()};
  answer_.finish = stopped_ || output_.reached() ? Finish::kStop : Finish::kLength;
  if (count() > 1) answer_.timing.tpot_ms = answer_.timing.decode_ms / static_cast<double>(count() - 1);
  return std::move(answer_);
}

// Draws a token; returns the text that it completes.
std::string Run::draw(const std::vector<float>& logits) {
  const int64_t token = pick_(logits);
  answer_.token_ids.push_back(token);
  const std::vector<int64_t>& stop_ids = engine_.model().stop_ids;
  stopped_ = std::find(stop_ids.begin(), stop_ids.end(), token) != stop_ids.end();
  return stopped_ ? "" : output_.add(token);
}

void Run::give(const std::string& piece) {
  answer_.text += piece;
  if (!request_.piece || (piece.empty() && engine_.has_text())) return;
  if (!request_.piece(piece, count())) {
    throw Error(AR_REQUEST_CANCELLED, "the request was cancelled by its callback");
  }
}

}  // namespace ar
