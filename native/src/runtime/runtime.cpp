#include "runtime/runtime.hpp"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "contract/error.hpp"

namespace ar {
namespace {

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  std::set<std::string> known;
  for (const std::string& name : names) {
    if (known.insert(name).second) text += (text.empty() ? "" : ", ") + name;
  }
  return text;
}

std::vector<Entry> named(const OpenBundle& bundle, const std::optional<std::string>& version) {
  const std::vector<Entry>& entries = bundle.manifest.entries;
  std::vector<Entry> found;
  std::copy_if(entries.begin(), entries.end(), std::back_inserter(found),
               [&](const Entry& entry) { return !version || entry.pruning.version == *version; });
  if (!found.empty()) return found;
  std::vector<std::string> versions;
  for (const Entry& entry : entries) versions.push_back(entry.pruning.version);
  throw Error(AR_UNKNOWN_VERSION, "the bundle has no version " + quoted(version.value_or("")),
              {bundle.path.string(), "", "one of " + joined(versions),
               "build it into the bundle with `allrounder build --version ...`"});
}

// Returns the entries that this runtime can run, of one version where it is given.
std::vector<Entry> candidates(const OpenBundle& bundle, const LoadOptions& options) {
  std::vector<Entry> able;
  std::map<std::pair<std::string, std::string>, std::optional<std::string>> reasons;  // by backend and precision
  for (const Entry& entry : named(bundle, options.version)) {
    const auto [reason, is_new] = reasons.try_emplace({entry.backend, entry.precision});
    if (is_new) reason->second = why_not(entry, options.engine);
    if (!reason->second) {
      able.push_back(entry);
      continue;
    }
    note(options.engine.log, Level::kInfo,
         entry.label() + ": left aside, this runtime cannot run it (" + *reason->second + ")");
  }
  if (!able.empty()) return able;
  std::string got;
  std::set<std::string> known;
  for (const auto& [kind, reason] : reasons) {
    if (known.insert(*reason).second) got.append(got.empty() ? "" : "; ").append(*reason);
  }
  throw Error(AR_ENGINE_UNAVAILABLE, "this runtime runs none of the bundle's engines",
              {bundle.path.string(), got, "", ""});
}

void check(const LoadOptions& options) {
  options.engine.check();
  if (options.target && options.version) {
    throw Error(AR_INPUT_INVALID, "give a target or a version, not both",
                {"", options.target->text() + "; " + quoted(*options.version), "", ""});
  }
  if (options.fallback_fastest && !options.target) {
    throw Error(AR_INPUT_INVALID, "a fallback needs a target", {"fallback_fastest", "1", "", ""});
  }
  if (!options.target) return;
  options.target->check();
  if (options.engine.weights != Weights::kFast) {
    throw Error(AR_INPUT_INVALID, "recorded latencies are those of fast weights",
                {"weights", options.target->text() + " with shared weights", "",
                 "name a version, or take fast weights"});
  }
}

// Returns the entries with those latencies alone that were recorded on this machine, with so many threads.
std::vector<Entry> recorded_here(std::vector<Entry> entries, const EngineOptions& options) {
  std::map<std::string, Machine> machines;  // by backend
  for (Entry& entry : entries) {
    if (!entry.latency) continue;
    const auto [machine, is_new] = machines.try_emplace(entry.backend);
    if (is_new) machine->second = backend(entry.backend).machine(options);
    if (!(entry.latency->machine == machine->second)) entry.latency.reset();
  }
  return entries;
}

// Returns a log that gets each message once: that ten sessions are opened alike is one fact.
Log once(Log log) {
  if (!log) return log;
  return [log = std::move(log), known = std::make_shared<std::set<std::string>>()](Level level,
                                                                                  const std::string& message) {
    if (known->insert(message).second) log(level, message);
  };
}

}  // namespace

std::unique_ptr<Runtime> Runtime::load(const std::filesystem::path& path, const LoadOptions& given) {
  check(given);
  LoadOptions options = given;
  options.engine.log = once(given.engine.log);
  OpenBundle bundle = open_bundle(path);
  std::vector<Entry> entries = candidates(bundle, options);
  if (options.target) entries = recorded_here(std::move(entries), options.engine);
  const Entry& entry = entries[choose(entries, options.target, nullptr, options.fallback_fastest)];
  note(options.engine.log, Level::kInfo, bundle.path.string() + ": loading " + entry.label());
  Engine engine = open_engine(bundle, entry, options.engine, !options.ids_only);
  return std::make_unique<Runtime>(std::move(engine), std::move(bundle.json));
}

// Counts a call, and holds the engine, for as long as it computes.
class Runtime::Visit {
 public:
  explicit Visit(Runtime& runtime) : runtime_(runtime) {
    if (runtime_.inherited()) {  // first: a thread that did not come along may hold the mutex
      throw Error(
          AR_RUNTIME_CLOSED, "the engine was loaded before this process was forked",
          {runtime_.entry_.label(),
           "loaded in process " + std::to_string(runtime_.process_) + ", used in process " + std::to_string(getpid()),
           "", "load it in the process that uses it, after the fork"});
    }
    const std::lock_guard lock(runtime_.mutex_);
    if (runtime_.closed_) {
      throw Error(AR_RUNTIME_CLOSED, "the runtime is closed", {runtime_.entry_.label(), "", "", "load it again"});
    }
    engine_ = runtime_.engine_;
    ++runtime_.inside_;
  }
  ~Visit() {
    engine_.reset();
    const std::lock_guard lock(runtime_.mutex_);
    --runtime_.inside_;
    runtime_.left_.notify_all();  // under the lock: who waits may free the runtime at once
  }
  Visit(const Visit&) = delete;
  Visit& operator=(const Visit&) = delete;
  const Engine& engine() const { return *engine_; }

 private:
  Runtime& runtime_;
  std::shared_ptr<const Engine> engine_;
};

Runtime::Runtime(Engine engine, std::string manifest)
    : process_(getpid()),
      entry_(engine.entry()),
      manifest_(std::move(manifest)),
      engine_(std::make_shared<const Engine>(std::move(engine))) {}

Runtime::~Runtime() { close(true); }

bool Runtime::inherited() const { return getpid() != process_; }

void Runtime::check_open() const {
  if (!cancelled_.cancelled()) return;
  throw Error(AR_REQUEST_CANCELLED, "the request was cancelled because the runtime was closed");
}

Answer Runtime::generate(const Request& request) {
  const Visit visit(*this);
  return answer(visit.engine(), request, [this] { check_open(); });
}

std::vector<Outcome> Runtime::generate_all(const std::vector<Request>& requests) {
  const Visit visit(*this);
  return answer_all(visit.engine(), requests, [this] { check_open(); });
}

std::vector<int64_t> Runtime::encode(const std::vector<Message>& messages) {
  return Visit(*this).engine().ids(messages);
}

void Runtime::close(bool cancel) {
  if (inherited()) return;
  std::unique_lock lock(mutex_);
  closed_ = true;
  if (cancel) cancelled_.cancel();
  left_.wait(lock, [this] { return inside_ == 0; });
  engine_.reset();
}

}  // namespace ar
