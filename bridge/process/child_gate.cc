#include "bridge/process/child_gate.h"

#include <signal.h>
#include <unistd.h>

namespace ferry::bridge {

ChildGate::Pass::Pass(ChildGate* gate, AsyncMutex::Guard guard)
    : gate_(gate), guard_(std::move(guard)) {
  gate_->inside_ = true;
}

ChildGate::Pass::~Pass() {
  if (gate_ == nullptr) return;
  gate_->inside_ = false;
  kill(getpid(), SIGCHLD);
}

Task<ChildGate::Pass> ChildGate::Enter() {
  AsyncMutex::Guard guard = co_await mutex_.Lock();
  co_return Pass(this, std::move(guard));
}

}  // namespace ferry::bridge
