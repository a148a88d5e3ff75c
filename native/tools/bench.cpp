// allrounder-native bench: times requests through the public header, warm-up rounds left out.
//
// Absolute times are those of this machine in this minute. Pictures are random, of the model's size; greedy tokens end
// at a stop token, so `tokens` says how many an answer had.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <random>

#include "arguments.hpp"
#include "commands.hpp"
#include "report.hpp"

namespace tool {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kWarmUp = 2;

std::vector<std::uint8_t> random_picture(std::int64_t size) {
  std::mt19937_64 random;
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(size * size * 3));
  std::generate(bytes.begin(), bytes.end(), [&random] { return static_cast<std::uint8_t>(random()); });
  return bytes;
}

// Linear between the samples, as numpy's percentiles are.
double percentile(std::vector<double> values, double percent) {
  std::sort(values.begin(), values.end());
  const double place = percent / 100 * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const double high = values[std::min(below + 1, values.size() - 1)];
  return values[below] + (high - values[below]) * (place - static_cast<double>(below));
}

Json percentiles(const std::vector<double>& values) {
  if (values.empty()) return {};
  return {{"p50", percentile(values, 50)}, {"p95", percentile(values, 95)}, {"p99", percentile(values, 99)}};
}

}  // namespace

void bench(const Line& line) {
  Line options = {"repeats", "new-tokens", "question"};
  options.insert(options.end(), kLoadOptions.begin(), kLoadOptions.end());
  const Arguments arguments(line, {"BUNDLE"}, options, {});
  const std::int64_t repeats = arguments.whole("repeats", 1).value_or(20);
  const auto started = std::chrono::steady_clock::now();
  const auto runtime = allrounder::Runtime::load(arguments.word(0), load_options(arguments));
  const std::chrono::duration<double, std::milli> loading = std::chrono::steady_clock::now() - started;
  const std::int64_t size = Json::parse(runtime.manifest()).at("model").at("image_size");
  const std::vector<std::uint8_t> pixels = random_picture(size);
  allrounder::Request request;
  request.rgb = pixels.data();
  request.width = request.height = size;
  request.question = arguments.text("question").value_or("What is in the picture?");
  request.max_new_tokens = arguments.whole("new-tokens", 1).value_or(16);
  std::vector<double> ttft, tpot;
  std::size_t tokens = 0;
  for (std::int64_t round = -kWarmUp; round < repeats; ++round) {
    const allrounder::Answer answer = runtime.generate(request);
    if (round < 0) continue;
    const allrounder::Timing timing = answer.timing();
    ttft.push_back(timing.ttft_ms);
    if (timing.tpot_ms) tpot.push_back(*timing.tpot_ms);
    tokens = answer.token_ids().size();
  }
  std::printf("%s: ttft %.2f ms, tpot %.3f ms (medians of %lld)\n", runtime.version().c_str(), percentile(ttft, 50),
              tpot.empty() ? 0.0 : percentile(tpot, 50), static_cast<long long>(repeats));
  std::fflush(stdout);
  const Json json = {{"version", runtime.version()}, {"repeats", repeats},           {"tokens", tokens},
                     {"load_ms", loading.count()},   {"ttft_ms", percentiles(ttft)}, {"tpot_ms", percentiles(tpot)}};
  std::cout << tool::line(json) << "\n";
}

}  // namespace tool
