#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

#include "bridge/runtime/async.h"

namespace ferry::migration {

// Says when a counter that should rise has stood still for too long. No I/O.
class StallWatch {
 public:
  using Clock = std::chrono::steady_clock;

  StallWatch(milliseconds limit, Clock::time_point now) : limit_(limit), since_(now) {}

  // True once `moved` has had the same value for the limit.
  bool Stalled(uint64_t moved, Clock::time_point now);

 private:
  milliseconds limit_;
  uint64_t moved_ = 0;
  Clock::time_point since_;
};

// Watches a transfer and calls off one of which no byte moves any more: the connection may be well
// and the VMM at either end stuck. Destroying it ends the watch. Thread: the executor's only.
class StallWatchdog {
 public:
  struct Transfer {
    std::function<uint64_t()> moved;  // bytes so far; only rises
    std::function<Task<void>()> call_off;
  };

  // Begins at once. `limit` 0: never calls off.
  StallWatchdog(Executor executor, milliseconds limit, Transfer transfer);

  // From here on silence is right: the guest is stopped, and deadlines of their own follow.
  void Stop() { scope_.Cancel(); }
  // The transfer was called off.
  bool stalled() const { return state_->stalled; }

 private:
  struct State {
    milliseconds limit;
    Transfer transfer;
    bool stalled = false;
  };
  static Task<void> Watch(std::shared_ptr<State> state);

  std::shared_ptr<State> state_;
  TaskScope scope_;
};

}  // namespace ferry::migration
