#pragma once

#include <utility>

#include "bridge/runtime/async.h"

namespace ferry::bridge {

// While somebody is inside, a child of this process may be nobody's yet: one that a helper program
// has just left behind, or the helper itself. The reaper then takes none. One at a time is inside,
// so that there are moments between for the reaper.
class ChildGate {
 public:
  explicit ChildGate(Executor executor) : mutex_(std::move(executor)) {}

  class Pass {
   public:
    Pass(ChildGate* gate, AsyncMutex::Guard guard);
    Pass(Pass&& other) noexcept
        : gate_(std::exchange(other.gate_, nullptr)), guard_(std::move(other.guard_)) {}
    Pass& operator=(Pass&&) = delete;
    // Makes the reaper look again: what ended meanwhile has been announced already.
    ~Pass();

   private:
    ChildGate* gate_;
    AsyncMutex::Guard guard_;
  };

  Task<Pass> Enter();
  bool closed() const { return inside_; }

 private:
  AsyncMutex mutex_;
  bool inside_ = false;
};

}  // namespace ferry::bridge
