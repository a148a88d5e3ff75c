// allrounder for C++17 programs: load a bundle, answer conversations with images.
//
//     #include <allrounder/allrounder.hpp>
//
//     int main() try {
//       allrounder::LoadOptions options;
//       options.ttft_ms = 200;  // the most faithful entry that gives its first token within 200 ms on this machine
//       const auto runtime = allrounder::Runtime::load("bundles/demo", options);
//
//       const allrounder::Image image{pixels.data(), 640, 480};  // 480 rows of 640 pixels of 3 bytes
//       allrounder::Request request = allrounder::Request::ask(image, "what is the red object?");
//       request.piece = [](std::string_view text, std::int64_t) { std::cout << text << std::flush; };
//       const allrounder::Answer answer = runtime.generate(request);
//       std::cout << "\n" << runtime.version() << ", first token after " << answer.timing().ttft_ms << " ms\n";
//
//       request.messages = {{"system", {"Be brief."}}, {"user", {image, "or", other_image, "?"}}};  // a conversation
//     } catch (const allrounder::Error& error) {
//       std::cerr << error.name() << ": " << error.what() << "\n";
//     }
//
// What it is: inline code over c_api.h. What it knows: owning handles, turning errors into exceptions, and carrying what
// a callback throws across the C interface. What it does not know: anything else; rules and threads are those of
// c_api.h. No C++ type crosses the library's border, so any compiler and standard library will do.
//
// An object that was moved from may only be destroyed or assigned to.
#ifndef ALLROUNDER_ALLROUNDER_HPP
#define ALLROUNDER_ALLROUNDER_HPP

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "allrounder/c_api.h"
#include "allrounder/request.hpp"

namespace allrounder {
// Records change from version to version: code that was compiled with different ones may meet in one process.
inline namespace v0_1 {

// What one request took, in milliseconds by phase.
struct Timing {
  double preprocess_ms = 0, vision_ms = 0, router_ms = 0, prefill_ms = 0, decode_ms = 0;
  double ttft_ms = 0;             // image in to first token out
  std::optional<double> tpot_ms;  // mean over the further tokens, where there are any
};

// Numbers of tokens.
struct Usage {
  std::int64_t text_tokens = 0, image_tokens = 0;  // of the prompt
  std::int64_t kept_image_tokens = 0;              // those that stayed
  std::int64_t new_tokens = 0;
};

struct LoadOptions {
  std::optional<std::string> version;   // the most faithful entry of that name; not with a target
  std::optional<double> ttft_ms;        // target: milliseconds from image in to first token out
  std::optional<double> tpot_ms;        // target: milliseconds per further token
  std::int32_t percentile = 95;         // which share of requests must meet the target: 50, 95 or 99
  bool fallback_fastest = false;        // the entry nearest to the target where none meets it
  std::optional<std::int32_t> threads;  // CPU threads that one step uses; default: all usable cores
  ar_weights weights = AR_WEIGHTS_FAST;
  std::string device = "cpu";              // or "cuda", "cuda:1"
  std::string provider = "cuda";           // of ONNX Runtime, on a GPU; or "tensorrt", with "cuda" behind it
  bool ids_only = false;                   // no tokenizer is read: token ids in, token ids out
  std::optional<std::string> ort_library;  // ONNX Runtime's library; default: the search order of c_api.h
  std::optional<std::string> openvino_library;  // and OpenVINO's
  // Called in the thread that is in a call, and kept as long as the runtime. What it throws comes out of that call when
  // it ends.
  std::function<void(ar_level, std::string_view message)> log;
};

class Answer {
 public:
  explicit Answer(ar_answer* owned) noexcept : handle_(owned) {}  // of `ar_generate`
  std::string text() const {
    std::size_t bytes = 0;
    const char* first = ar_answer_text(handle_.get(), &bytes);
    return {first, bytes};
  }
  std::vector<std::int64_t> token_ids() const { return detail::ids(ar_answer_token_ids, handle_.get()); }
  std::vector<std::int64_t> prompt_ids() const { return detail::ids(ar_answer_prompt_ids, handle_.get()); }
  std::vector<std::int64_t> keep_indices() const { return detail::ids(ar_answer_keep_indices, handle_.get()); }
  std::vector<std::int64_t> kept_layers() const { return detail::ids(ar_answer_kept_layers, handle_.get()); }
  Usage usage() const noexcept {
    ar_usage raw{};
    raw.size = sizeof raw;
    ar_answer_usage(handle_.get(), &raw);
    return {raw.text_tokens, raw.image_tokens, raw.kept_image_tokens, raw.new_tokens};
  }
  ar_finish finish() const noexcept { return ar_answer_finish(handle_.get()); }
  Timing timing() const noexcept {
    ar_timing raw{};
    raw.size = sizeof raw;
    ar_answer_timing(handle_.get(), &raw);
    Timing timing{raw.preprocess_ms, raw.vision_ms, raw.router_ms, raw.prefill_ms, raw.decode_ms, raw.ttft_ms, {}};
    if (raw.tpot_ms >= 0) timing.tpot_ms = raw.tpot_ms;
    return timing;
  }

 private:
  std::unique_ptr<ar_answer, detail::Freed<ar_answer_free>> handle_;
};

// What became of one request of several: an answer, or an error.
struct Outcome {
  std::optional<Answer> answer;
  std::optional<Error> error;
};

// A bundle of which nothing runs; needs no ONNX Runtime.
class Bundle {
 public:
  static Bundle open(const std::string& path) {
    const char* name = detail::text(path, "path");
    const auto open = [name](ar_bundle** bundle) { return ar_bundle_open(name, bundle); };
    return Bundle(detail::made<ar_bundle_free, ar_bundle>(open).release());
  }
  std::string manifest() const { return ar_bundle_manifest(handle_.get()); }  // as JSON

 private:
  explicit Bundle(ar_bundle* owned) noexcept : handle_(owned) {}
  std::unique_ptr<ar_bundle, detail::Freed<ar_bundle_free>> handle_;
};

// Answers conversations with one engine of a bundle. Any number of threads may ask at once.
class Runtime {
 public:
  // Opens a bundle and the entry to be used; without version and target the most faithful of all. c_api.h says what is
  // checked, and by which latencies a target chooses.
  static Runtime load(const std::string& bundle, const LoadOptions& options = {}) {
    auto state = std::make_unique<State>();
    state->log = options.log;
    const ar_load_options raw = lowered(options, state.get());
    const char* path = detail::text(bundle, "bundle");
    detail::checked([&] {
      ar_runtime* made = nullptr;
      ar_error* error = ar_runtime_load(path, &raw, &made);
      state->handle.reset(made);  // also where a callback threw
      return error;
    });
    return Runtime(std::move(state));
  }

  Answer generate(const Request& request) const {
    const detail::Lowered lowered(request);
    const auto ask = [&](ar_answer** answer) { return ar_generate(handle(), &lowered.raw(), answer); };
    return Answer(detail::made<ar_answer_free, ar_answer>(ask).release());
  }

  // Answers several requests, up to the bundle's limit: together where the entry's layers are static. One request's
  // failure ends that one alone. What a `piece` throws comes out of here, when the others have ended.
  std::vector<Outcome> generate_batch(const std::vector<Request>& requests) const {
    const std::vector<detail::Lowered> lowered(requests.begin(), requests.end());
    std::vector<ar_request> raw;
    for (const detail::Lowered& each : lowered) raw.push_back(each.raw());
    std::vector<ar_answer*> answers(raw.size());
    std::vector<ar_error*> errors(raw.size());
    std::vector<Outcome> outcomes(raw.size());
    detail::checked([&] {
      ar_error* failed = ar_generate_batch(handle(), raw.data(), raw.size(), answers.data(), errors.data());
      for (std::size_t index = 0; index < raw.size(); ++index) {
        const std::unique_ptr<ar_error, detail::Freed<ar_error_free>> error(errors[index]);
        if (answers[index]) outcomes[index].answer.emplace(answers[index]);
        if (error) outcomes[index].error = detail::as_error(error.get());
      }
      return failed;
    });
    return outcomes;
  }

  // Gives the ids of a conversation, with one placeholder per image, as `generate` would. No image is read.
  std::vector<std::int64_t> encode(const std::vector<Message>& messages) const {
    const detail::Messages raw(messages);
    const auto prompt = detail::made<ar_prompt_free, ar_prompt>(
        [&](ar_prompt** ids) { return ar_prompt_encode(handle(), raw.data(), raw.size(), ids); });
    return detail::ids(ar_prompt_ids, prompt.get());
  }

  // No new requests; those that run are cancelled before their next step, or awaited. Returns when nothing runs.
  void close(bool cancel = true) const {
    detail::checked([&]() -> ar_error* {
      ar_runtime_close(handle(), cancel ? 1 : 0);
      return nullptr;
    });
  }

  std::string version() const { return ar_runtime_version(handle()); }    // of the entry in use: "par-lite"
  std::string entry() const { return ar_runtime_entry(handle()); }        // as the manifest's JSON
  std::string manifest() const { return ar_runtime_manifest(handle()); }  // the whole one

 private:
  struct Freed {
    void operator()(ar_runtime* handle) const noexcept {
      std::exception_ptr outer = std::exchange(detail::thrown(), nullptr);
      ar_runtime_free(handle);  // may log; what the callback throws ends here
      detail::thrown() = std::move(outer);
    }
  };
  struct State {
    decltype(LoadOptions::log) log;
    std::unique_ptr<ar_runtime, Freed> handle;  // last, so that it goes before the callback does
  };

  explicit Runtime(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
  ar_runtime* handle() const noexcept { return state_->handle.get(); }

  static ar_load_options lowered(const LoadOptions& options, State* state) {
    ar_load_options raw{};
    raw.size = sizeof raw;
    raw.version = detail::text(options.version, "version");
    raw.ttft_ms = detail::number(options.ttft_ms, "ttft_ms");
    raw.tpot_ms = detail::number(options.tpot_ms, "tpot_ms");
    raw.percentile = detail::number(std::optional(options.percentile), "percentile");
    raw.fallback_fastest = options.fallback_fastest ? 1 : 0;
    raw.threads = detail::number(options.threads, "threads");
    raw.weights = options.weights;
    raw.device = detail::text(options.device, "device");
    raw.provider = detail::text(options.provider, "provider");
    raw.ids_only = options.ids_only ? 1 : 0;
    raw.ort_library = detail::text(options.ort_library, "ort_library");
    raw.openvino_library = detail::text(options.openvino_library, "openvino_library");
    if (state->log) raw.log = on_log;
    raw.user = state;
    return raw;
  }

  static void on_log(void* user, ar_level level, const char* message) {
    detail::guarded([&] { static_cast<State*>(user)->log(level, message); });
  }

  std::unique_ptr<State> state_;
};

inline std::string library_version() { return ar_version(); }

}  // namespace v0_1
}  // namespace allrounder

#endif  // ALLROUNDER_ALLROUNDER_HPP
