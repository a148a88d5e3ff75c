#include "runtime/request.hpp"

#include <algorithm>

#include "contract/error.hpp"
#include "runtime/run.hpp"

namespace ar {
namespace {

// Decodes requests together; the first slots of the pool are those of the requests in `active_`.
class Batch {
 public:
  Batch(Pool pool, std::vector<Outcome>& outcomes) : pool_(std::move(pool)), outcomes_(outcomes) {}

  // Runs the prompt of one more, in the next slot.
  void join(std::size_t index, Run& run) {
    active_.push_back({index, &run});
    if (!attempt(active_.back(), [&] { run.prefill(pool_, last()); })) active_.pop_back();
  }

  // Draws one more token for each.
  void step() {
    for (std::size_t slot = active_.size(); slot-- > 0;) {
      if (!attempt(active_[slot], [&] { active_[slot].run->check(); })) leave(slot);
    }
    if (active_.empty()) return;
    const Phase::Clock::time_point started = Phase::Clock::now();
    std::vector<float> logits;
    try {
      std::vector<std::vector<int64_t>> ids;
      for (const Member& each : active_) ids.push_back({each.run->last_token()});
      logits = pool_.advance(ids);
    } catch (...) {  // of the backend: of all of them
      for (const Member& each : active_) outcomes_[each.index].error = std::current_exception();
      active_.clear();
      return;
    }
    const double milliseconds = Phase::since(started);
    const std::size_t vocabulary = logits.size() / active_.size();
    for (std::size_t slot = active_.size(); slot-- > 0;) {
      const auto first = logits.begin() + static_cast<std::ptrdiff_t>(slot * vocabulary);
      const std::vector<float> own(first, first + static_cast<std::ptrdiff_t>(vocabulary));
      if (!attempt(active_[slot], [&] { active_[slot].run->take(own, milliseconds); })) leave(slot);
    }
  }

  bool empty() const { return active_.empty(); }

 private:
  struct Member {
    std::size_t index;  // among the requests
    Run* run;
  };

  int64_t last() const { return static_cast<int64_t>(active_.size()) - 1; }

  // Does a request's work; returns whether it goes on. Its end, good or bad, is its outcome.
  template <class Work>
  bool attempt(const Member& member, Work work) {
    try {
      work();
      if (!member.run->done()) return true;
      outcomes_[member.index].answer = member.run->finish();
    } catch (...) {
      outcomes_[member.index].error = std::current_exception();
    }
    return false;
  }

  // The last one moves into the slot.
  void leave(std::size_t slot) {
    pool_.move(last(), static_cast<int64_t>(slot));
    active_[slot] = active_.back();
    active_.pop_back();
  }

  Pool pool_;
  std::vector<Outcome>& outcomes_;
  std::vector<Member> active_;
};

// Returns a pool with a slot for each request, as large as the largest needs.
Pool pool_for(const Engine& engine, const std::vector<std::unique_ptr<Run>>& runs) {
  PoolShape whole{0, 0, 0};
  for (const auto& run : runs) {
    if (!run) continue;
    const PoolShape own = engine.pool_shape(run->task());
    whole = {whole.sequences + 1, std::max(whole.rows, own.rows), std::max(whole.kept_rows, own.kept_rows)};
  }
  return engine.pool(whole);
}

void answer_together(const Engine& engine, const std::vector<Request>& requests, const Check& closing,
                     std::vector<Outcome>& outcomes) {
  std::vector<std::unique_ptr<Run>> runs(requests.size());
  for (std::size_t index = 0; index < requests.size(); ++index) {
    try {
      runs[index] = std::make_unique<Run>(engine, requests[index], closing);
    } catch (...) {
      outcomes[index].error = std::current_exception();
    }
  }
  if (std::none_of(runs.begin(), runs.end(), [](const auto& run) { return run != nullptr; })) return;
  Batch batch(pool_for(engine, runs), outcomes);
  for (std::size_t index = 0; index < runs.size(); ++index) {
    if (runs[index]) batch.join(index, *runs[index]);
  }
  while (!batch.empty()) batch.step();
}

}  // namespace

Answer answer(const Engine& engine, const Request& request, const Check& closing) {
  Run run(engine, request, closing);
  run.embed();
  Pool pool = engine.pool(engine.pool_shape(run.task()), run.scores());
  run.prefill(pool, 0);
  while (!run.done()) {
    run.check();
    const Phase::Clock::time_point started = Phase::Clock::now();
    const std::vector<float> logits = pool.advance({{run.last_token()}});
    run.take(logits, Phase::since(started));
  }
  return run.finish();
}

std::vector<Outcome> answer_all(const Engine& engine, const std::vector<Request>& requests, const Check& closing) {
  const int64_t limit = engine.limits().batch;
  if (static_cast<int64_t>(requests.size()) > limit) {
    throw Error(AR_INPUT_INVALID, "more requests than are answered together",
                {"requests", std::to_string(requests.size()), "up to " + std::to_string(limit),
                 "send them in several calls, or build another bundle with a higher --max-batch"});
  }
  std::vector<Outcome> outcomes(requests.size());
  if (!engine.entry().pruning.dynamic()) {
    answer_together(engine, requests, closing, outcomes);
    return outcomes;
  }
  for (std::size_t index = 0; index < requests.size(); ++index) {
    try {
      outcomes[index].answer = answer(engine, requests[index], closing);
    } catch (...) {
      outcomes[index].error = std::current_exception();
    }
  }
  return outcomes;
}

}  // namespace ar
