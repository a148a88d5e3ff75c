#include "runtime/measure.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <numeric>
#include <string>

#include "contract/error.hpp"
#include "runtime/image.hpp"
#include "runtime/random.hpp"
#include "runtime/sampling.hpp"

namespace ar {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kWarmUp = 2;  // rounds: the first allocates, the second settles
constexpr const char* kQuestion = "What is in the picture?";

struct Subject {  // a picture, a prompt and how many tokens are drawn
  std::vector<uint8_t> pixels;
  Array rgb;
  PromptIds prompt;
  int64_t new_tokens;
};

void require(const char* name, int64_t got, int64_t low, int64_t high) {
  if (low <= got && got <= high) return;
  throw Error(AR_INPUT_INVALID, "impossible workload",
              {name, std::to_string(got), std::to_string(low) + " to " + std::to_string(high), ""});
}

void check(const Engine& engine, const Workload& workload) {
  const int threads = engine.options().thread_count();
  require("text_tokens", workload.text_tokens, 2, engine.limits().text_tokens);
  require("new_tokens", workload.new_tokens, 2, engine.limits().new_tokens);
  require("batch", workload.batch, 1, 1);
  require("threads", workload.threads, threads, threads);
}

// The bytes of default_rng(0).integers(0, 256, ..., uint8).
std::vector<uint8_t> random_bytes(std::size_t count) {
  Random random(0);
  std::vector<uint8_t> bytes;
  bytes.reserve(count);
  while (bytes.size() < count) {
    uint64_t word = random.next();
    for (int byte = 0; byte < 8 && bytes.size() < count; ++byte, word >>= 8)
      bytes.push_back(static_cast<uint8_t>(word));
  }
  return bytes;
}

// Any ids will do where there is no tokenizer: no step's time depends on them.
PromptIds question_ids(const Engine& engine) {
  return engine.has_text() ? engine.prompt(kQuestion) : PromptIds{{0}, {0}};
}

// The question's ids are repeated up to the workload's length, or cut.
PromptIds prompt_of(const Engine& engine, int64_t text_tokens) {
  PromptIds prompt = question_ids(engine);
  const auto length = static_cast<std::size_t>(text_tokens);
  prompt.prefix_ids.resize(std::min(prompt.prefix_ids.size(), length - 1));
  const std::vector<int64_t> once = prompt.suffix_ids;
  prompt.suffix_ids.clear();
  for (std::size_t index = 0; index < length - prompt.prefix_ids.size(); ++index) {
    prompt.suffix_ids.push_back(once[index % once.size()]);
  }
  return prompt;
}

Subject subject_of(const Engine& engine, const Workload& workload) {
  check(engine, workload);
  const int64_t size = workload.image_size;
  require("image_size", size, 1, static_cast<int64_t>(std::sqrt(kMaxPixels)));
  Subject subject{random_bytes(static_cast<std::size_t>(size * size * 3)),
                  {Kind::kUint8, {size, size, 3}, nullptr},
                  prompt_of(engine, workload.text_tokens),
                  workload.new_tokens};
  subject.rgb.data = subject.pixels.data();
  return subject;
}

double milliseconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

// Returns milliseconds to the first token, and the mean of each further one.
std::pair<double, double> time(const Engine& engine, const Subject& subject) {
  const Clock::time_point started = Clock::now();
  const TensorPtr visual = engine.look(engine.preprocess(subject.rgb));
  const std::optional<Scores> scores = engine.route(subject.prompt, visual);
  Prefilled state = engine.prefill(subject.prompt, visual, scores, subject.new_tokens - 1);
  int64_t token = first_maximum(state.logits);
  const Clock::time_point first = Clock::now();
  for (int64_t step = 1; step < subject.new_tokens; ++step) token = first_maximum(engine.decode(state, {token}));
  const double further = milliseconds(first, Clock::now());
  return {milliseconds(started, first), further / static_cast<double>(subject.new_tokens - 1)};
}

double percentile(const std::vector<double>& sorted, double percent) {
  const double place = percent / 100 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const double low = sorted[below], high = sorted[std::min(below + 1, sorted.size() - 1)];
  const double share = place - static_cast<double>(below);
  return share < 0.5 ? low + (high - low) * share : high - (high - low) * (1 - share);
}

double rounded(double value) {
  std::array<char, 400> text{};  // the longest double in plain digits has 309 before the point
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed, 4).ptr;
  std::from_chars(text.data(), end, value);
  return value;
}

}  // namespace

Workload default_workload(const Engine& engine) {
  return {std::min<int64_t>(64, engine.limits().text_tokens), std::min<int64_t>(16, engine.limits().new_tokens), 1,
          engine.options().thread_count(), engine.model().image_size};
}

std::vector<Samples> sample_latency(const std::vector<Engine>& engines, const Workload& workload, const Effort& effort,
                                    const Progress& progress) {
  std::vector<Subject> subjects;
  for (const Engine& engine : engines) subjects.push_back(subject_of(engine, workload));
  std::vector<Samples> samples(engines.size());
  const Clock::time_point started = Clock::now();
  const int total = kWarmUp + effort.repeats;
  for (int done = 0; done < total; ++done) {
    for (std::size_t index = 0; index < engines.size(); ++index) {
      const auto [ttft, tpot] = time(engines[index], subjects[index]);
      if (done < kWarmUp) continue;
      samples[index].ttft.push_back(ttft);
      samples[index].tpot.push_back(tpot);
    }
    const bool late = effort.seconds && milliseconds(started, Clock::now()) > *effort.seconds * 1000;
    const bool last = late && done >= kWarmUp;
    tell(progress, "measuring latency", last ? total : done + 1, total);
    if (last) break;
  }
  return samples;
}

Percentiles percentiles(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {rounded(percentile(values, 50)), rounded(percentile(values, 95)), rounded(percentile(values, 99))};
}

std::vector<Latency> measure_latency(const std::vector<Engine>& engines, const Workload& workload,
                                     const Effort& effort) {
  const std::vector<Samples> samples = sample_latency(engines, workload, effort);
  std::vector<Latency> latencies;
  for (std::size_t index = 0; index < engines.size(); ++index) {
    latencies.push_back({percentiles(samples[index].ttft), percentiles(samples[index].tpot),
                         engines[index].machine(), workload});
  }
  return latencies;
}

}  // namespace ar
