// allrounder for C++17 programs: load a bundle, ask questions about images.
//
//     #include <allrounder/allrounder.hpp>
//
//     int main() try {
//       allrounder::LoadOptions options;
//       options.ttft_ms = 200;  // the most faithful entry that gives its first token within 200 ms on this machine
//       const auto runtime = allrounder::Runtime::load("bundles/demo", options);
//
//       allrounder::Request request;
//       request.rgb = pixels.data();  // 480 rows of 640 pixels of 3 bytes
//       request.width = 640;
//       request.height = 480;
//       request.question = "what is the red object?";
//       request.piece = [](std::string_view text, std::int64_t) { std::cout << text << std::flush; };
//       const allrounder::Answer answer = runtime.generate(request);
//       std::cout << "\n" << runtime.version() << ", first token after " << answer.timing().ttft_ms << " ms\n";
//     } catch (const allrounder::Error& error) {
//       std::cerr << error.name() << ": " << error.what() << "\n";
//     }
//
// What it is: a header of inline code over c_api.h. What it knows: owning handles, turning errors into exceptions, and
// carrying what a callback throws across the C interface. What it does not know: anything else; rules and threads are
// those of c_api.h. No C++ type crosses the library's border, so any compiler and standard library will do.
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
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "allrounder/c_api.h"

namespace allrounder {
// Records change from version to version: code that was compiled with different ones may meet in one process.
inline namespace v0_1 {

// What went wrong. `what()` says what, where, got, wanted and the remedy.
class Error : public std::runtime_error {
 public:
  Error(ar_status status, std::string name, const std::string& message)
      : std::runtime_error(message), status_(status), name_(std::move(name)) {}
  ar_status status() const noexcept { return status_; }
  const std::string& name() const noexcept { return name_; }  // as in Python: "BundleCorrupt"

 private:
  ar_status status_;
  std::string name_;
};

// What one request took, in milliseconds by phase.
struct Timing {
  double preprocess_ms = 0, vision_ms = 0, router_ms = 0, prefill_ms = 0, decode_ms = 0;
  double ttft_ms = 0;             // image in to first token out
  std::optional<double> tpot_ms;  // mean over the further tokens, where there are any
};

// A question's token ids on both sides of the image.
struct PromptIds {
  std::vector<std::int64_t> prefix, suffix;
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
  // Called in the thread that is in a call, and kept as long as the runtime. What it throws comes out of that call when
  // it ends.
  std::function<void(ar_level, std::string_view message)> log;
};

namespace detail {

template <auto Free>
struct Freed {
  template <class T>
  void operator()(T* handle) const noexcept {
    Free(handle);
  }
};

[[noreturn]] inline void invalid(const std::string& what, const char* where) {
  throw Error(AR_INPUT_INVALID, "InputInvalid", what + "; where: " + where);
}

// What a callback of this thread threw, on its way across the C interface.
inline std::exception_ptr& thrown() noexcept {
  thread_local std::exception_ptr held;
  return held;
}

// Runs a callback; nothing escapes. After one threw, further ones are not run until the call is over.
template <class Callback>
bool guarded(Callback&& callback) noexcept {
  if (thrown()) return false;
  try {
    callback();
    return true;
  } catch (...) {
    thrown() = std::current_exception();
    return false;
  }
}

// Makes a call of the C interface. Throws what a callback threw in it, else the error it returned.
template <class Call>
void checked(Call&& call) {
  std::exception_ptr outer = std::exchange(thrown(), nullptr);  // a callback may make calls itself
  const std::unique_ptr<ar_error, Freed<ar_error_free>> error(call());
  const std::exception_ptr inner = std::exchange(thrown(), std::move(outer));
  if (inner) std::rethrow_exception(inner);
  if (error) throw Error(ar_error_status(error.get()), ar_error_name(error.get()), ar_error_message(error.get()));
}

// Makes a handle by a call of the C interface, which writes it; where a callback threw it is freed.
template <auto Free, class Handle, class Call>
std::unique_ptr<Handle, Freed<Free>> made(Call&& call) {
  std::unique_ptr<Handle, Freed<Free>> owned;
  checked([&] {
    Handle* handle = nullptr;
    ar_error* error = call(&handle);
    owned.reset(handle);
    return error;
  });
  return owned;
}

// In the C interface a text ends at its first zero byte, and a zero means the default; neither is to happen unseen.
inline const char* text(const std::string& value, const char* where) {
  if (value.find('\0') != std::string::npos) invalid("the text holds a zero byte", where);
  return value.c_str();
}
inline const char* text(const std::optional<std::string>& value, const char* where) {
  return value ? text(*value, where) : nullptr;
}
template <class Number>
Number number(const std::optional<Number>& value, const char* where) {
  if (value && *value == Number{}) invalid("zero is no value; leave it out for the default", where);
  return value.value_or(Number{});
}

// Copies what an accessor returns.
template <class Handle>
std::vector<std::int64_t> ids(const std::int64_t* (*get)(const Handle*, std::size_t*), const Handle* handle) {
  std::size_t count = 0;
  const std::int64_t* first = get(handle, &count);
  return {first, first + count};
}

}  // namespace detail

// Ends the requests that it was given to; stays cancelled.
class Cancellation {
 public:
  Cancellation() : handle_(detail::made<ar_cancellation_free, ar_cancellation>(ar_cancellation_new)) {}
  void cancel() const noexcept { ar_cancellation_cancel(handle_.get()); }  // from any thread; returns at once
  ar_cancellation* get() const noexcept { return handle_.get(); }

 private:
  std::unique_ptr<ar_cancellation, detail::Freed<ar_cancellation_free>> handle_;
};

// One question about one image, by its text or by token ids. The pixels are read before the first piece is given, and
// not kept; until then nobody may change them.
struct Request {
  const std::uint8_t* rgb = nullptr;  // height rows of width pixels of 3 bytes: red, green, blue
  std::int64_t width = 0, height = 0;
  std::int64_t row_bytes = 0;                        // from one row to the next; 0: 3 * width
  std::string question;                              // plain text: what spells a special token in it stays text
  std::vector<std::int64_t> prefix_ids, suffix_ids;  // in place of a question: what is before and after the image
  std::optional<std::int64_t> max_new_tokens;        // default: 128, or the bundle's limit where that is lower
  double temperature = 0;                            // 0: the best token
  std::int64_t top_k = 0;                            // 0: all
  double top_p = 1;
  std::optional<std::uint64_t> seed;  // same seed, same draws; they are not those of Python's runtime
  std::vector<std::string> stop;      // texts that end the answer and are not part of it
  const Cancellation* cancel = nullptr;
  // Called with each piece of text as it comes, in the thread of `generate`, and how many tokens were drawn so far.
  // What it throws ends the request and comes out of `generate`.
  std::function<void(std::string_view text, std::int64_t token_count)> piece;
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

// Answers questions with one engine of a bundle. Any number of threads may ask at once.
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
    std::vector<const char*> stops;
    for (const std::string& stop : request.stop) stops.push_back(detail::text(stop, "stop"));
    ar_request raw = lowered(request);
    raw.stop = stops.data();
    raw.stop_count = stops.size();
    const auto ask = [&](ar_answer** answer) { return ar_generate(handle(), &raw, answer); };
    return Answer(detail::made<ar_answer_free, ar_answer>(ask).release());
  }

  // Gives the ids around the image for a question, as `generate` would.
  PromptIds encode(const std::string& question) const {
    const auto prompt = detail::made<ar_prompt_free, ar_prompt>([&](ar_prompt** ids) {
      return ar_prompt_encode(handle(), question.c_str(), question.size(), ids);
    });
    return {detail::ids(ar_prompt_prefix_ids, prompt.get()), detail::ids(ar_prompt_suffix_ids, prompt.get())};
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
    if (state->log) raw.log = on_log;
    raw.user = state;
    return raw;
  }

  static ar_request lowered(const Request& request) {
    ar_request raw{};
    raw.size = sizeof raw;
    raw.rgb = request.rgb;
    raw.width = request.width;
    raw.height = request.height;
    raw.row_bytes = request.row_bytes;
    const bool by_ids = request.question.empty() && !(request.prefix_ids.empty() && request.suffix_ids.empty());
    raw.question = by_ids ? nullptr : request.question.c_str();
    raw.question_bytes = request.question.size();
    raw.prefix_ids = request.prefix_ids.data();
    raw.prefix_count = request.prefix_ids.size();
    raw.suffix_ids = request.suffix_ids.data();
    raw.suffix_count = request.suffix_ids.size();
    raw.max_new_tokens = detail::number(request.max_new_tokens, "max_new_tokens");
    raw.temperature = request.temperature;
    raw.top_k = request.top_k;
    raw.top_p = detail::number(std::optional(request.top_p), "top_p");
    raw.seeded = request.seed ? 1 : 0;
    raw.seed = request.seed.value_or(0);
    raw.cancel = request.cancel ? request.cancel->get() : nullptr;
    if (request.piece) raw.piece = on_piece;
    raw.user = const_cast<Request*>(&request);
    return raw;
  }

  static void on_log(void* user, ar_level level, const char* message) {
    detail::guarded([&] { static_cast<State*>(user)->log(level, message); });
  }
  static int on_piece(void* user, const char* text, std::size_t bytes, std::int64_t token_count) {
    return detail::guarded([&] { static_cast<Request*>(user)->piece({text, bytes}, token_count); }) ? 0 : 1;
  }

  std::unique_ptr<State> state_;
};

inline std::string library_version() { return ar_version(); }

}  // namespace v0_1
}  // namespace allrounder

#endif  // ALLROUNDER_ALLROUNDER_HPP
