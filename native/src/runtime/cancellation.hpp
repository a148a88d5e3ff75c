// Cancelling a request: a flag that one thread sets and requests read between their steps.
#pragma once

#include <atomic>
#include <memory>

#include "contract/error.hpp"

namespace ar {

// Copies share the flag, so that requests may outlive the object that cancels them.
class Cancellation {
 public:
  void cancel() const noexcept { flag_->store(true); }
  bool cancelled() const noexcept { return flag_->load(); }
  void check() const {
    if (cancelled()) throw Error(AR_REQUEST_CANCELLED, "the request was cancelled");
  }

 private:
  std::shared_ptr<std::atomic<bool>> flag_ = std::make_shared<std::atomic<bool>>(false);
};

}  // namespace ar
