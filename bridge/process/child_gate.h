#pragma once

#include <functional>
#include <utility>

#include "bridge/runtime/async.h"

namespace ferry::bridge {

// While somebody is inside, a child of this process may be nobody's yet: one that a helper program
// has just left behind. The reaper then takes none that it does not know. One at a time is inside;
// whenever one leaves, the reaper gets its turn before the next one enters.
class ChildGate {
 public:
  // `collect` takes the orphans that have ended meanwhile. It is called when somebody has left, and
  // must not enter.
  ChildGate(Executor executor, std::function<void()> collect)
      : mutex_(std::move(executor)), collect_(std::move(collect)) {}

  class Pass {
   public:
    Pass(ChildGate* gate, AsyncMutex::Guard guard);
    Pass(Pass&& other) noexcept
        : gate_(std::exchange(other.gate_, nullptr)), guard_(std::move(other.guard_)) {}
    Pass& operator=(Pass&&) = delete;
    ~Pass();

   private:
    ChildGate* gate_;
    AsyncMutex::Guard guard_;
  };

  // DEADLINE_EXCEEDED if others are inside for longer than `limit`.
  Task<absl::StatusOr<Pass>> Enter(milliseconds limit);
  bool closed() const { return inside_; }

 private:
  Task<absl::StatusOr<Pass>> Wait();

  AsyncMutex mutex_;
  const std::function<void()> collect_;
  bool inside_ = false;
};

}  // namespace ferry::bridge
