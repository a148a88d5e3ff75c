// The runtime: one engine, chosen by version or latency target, that answers requests; runtime/runtime.py.
//
// What it is: loading, and requests until it is closed.
// What it knows: one engine. Requests may run at once, from any threads, of the process that loaded it: one forked from
// that has none of its engine's threads, so there every call is refused and nothing is ever destroyed.
#pragma once

#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "contract/choice.hpp"
#include "runtime/request.hpp"

namespace ar {

struct LoadOptions {
  std::optional<std::string> version;   // the most faithful entry of that name; not with a target
  std::optional<LatencyTarget> target;  // the most faithful entry whose latency, recorded here, meets it
  bool fallback_fastest = false;        // the entry nearest to the target where none meets it
  bool ids_only = false;                // no tokenizer is read
  EngineOptions engine;                 // its log gets the choice too
};

class Runtime {
 public:
  // Throws AR_NO_ENGINE_MEETS_TARGET, AR_UNKNOWN_VERSION, AR_INPUT_INVALID, AR_ENGINE_UNAVAILABLE, AR_BUNDLE_*.
  static std::unique_ptr<Runtime> load(const std::filesystem::path& path, const LoadOptions& options);

  Runtime(Engine engine, std::string manifest);
  ~Runtime();  // closes; not to be run where it is inherited
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  // Whether this process was forked from the one that loaded it.
  bool inherited() const;
  const Entry& entry() const { return entry_; }
  const std::string& manifest() const { return manifest_; }  // as JSON, byte for byte

  // Throws AR_IMAGE_INVALID, AR_INPUT_INVALID, AR_PROMPT_TOO_LONG, AR_REQUEST_CANCELLED, AR_RUNTIME_CLOSED,
  // AR_BACKEND_ERROR.
  Answer generate(const Request& request);
  // Answers several at once; see `answer_all`. Throws AR_INPUT_INVALID, AR_RUNTIME_CLOSED, or AR_ENGINE_UNAVAILABLE
  // (this engine holds one sequence alone).
  std::vector<Outcome> generate_all(const std::vector<Request>& requests);
  // Returns the ids of a conversation, with one placeholder per image, as `generate` would.
  std::vector<int64_t> encode(const std::vector<Message>& messages);
  // No new requests; those that run are cancelled before their next step, or awaited. Returns when nothing runs any
  // more; not to be called from a callback of a request. May be called again. Does nothing where it is inherited.
  void close(bool cancel);

 private:
  class Visit;  // a call that is computing

  void check_open() const;  // throws AR_REQUEST_CANCELLED where `close` cancels what runs

  const int process_;
  const Entry entry_;
  const std::string manifest_;
  std::mutex mutex_;  // guards all below
  std::condition_variable left_;
  std::shared_ptr<const Engine> engine_;
  int inside_ = 0;          // calls that are computing right now
  bool closed_ = false;     // no new requests
  Cancellation cancelled_;  // and none goes on
};

}  // namespace ar
