#include "bridge/process/child_gate.h"

namespace ferry::bridge {

ChildGate::Pass::Pass(ChildGate* gate, AsyncMutex::Guard guard)
    : gate_(gate), guard_(std::move(guard)) {
  gate_->inside_ = true;
}

ChildGate::Pass::~Pass() {
  if (gate_ == nullptr) return;
  gate_->inside_ = false;
  // What ended meanwhile has been announced already, and the next one enters before the reactor
  // could bring another signal: under steady traffic the reaper would never get to look.
  if (gate_->collect_) gate_->collect_();
}

Task<absl::StatusOr<ChildGate::Pass>> ChildGate::Wait() {
  AsyncMutex::Guard guard = co_await mutex_.Lock();
  co_return Pass(this, std::move(guard));
}

Task<absl::StatusOr<ChildGate::Pass>> ChildGate::Enter(milliseconds limit) {
  Task<absl::StatusOr<Pass>> wait = Wait();
  co_return co_await WithDeadline(limit, "the container runtime", std::move(wait));
}

}  // namespace ferry::bridge
