#include "migration/controller/stall_watchdog.h"

#include <algorithm>
#include <utility>

namespace ferry::migration {
namespace {

// How often the counter is read within the limit; bytes come too thick for an event each.
constexpr int kLooks = 10;

}  // namespace

bool StallWatch::Stalled(uint64_t moved, Clock::time_point now) {
  if (std::exchange(moved_, moved) != moved) since_ = now;
  return now - since_ >= limit_;
}

StallWatchdog::StallWatchdog(Executor executor, milliseconds limit, Transfer transfer)
    : state_(std::make_shared<State>()), scope_(executor) {
  state_->limit = limit;
  state_->transfer = std::move(transfer);
  if (limit.count() > 0) scope_.Spawn(Watch(state_));
}

Task<void> StallWatchdog::Watch(std::shared_ptr<State> state) {
  const Executor executor = co_await asio::this_coro::executor;
  StallWatch watch(state->limit, StallWatch::Clock::now());
  const milliseconds pause = std::max(state->limit / kLooks, milliseconds(1));
  while (!watch.Stalled(state->transfer.moved(), StallWatch::Clock::now())) co_await Delay(pause);
  state->stalled = true;
  // Not in this task, for what it ends is who owns the watchdog.
  Spawn(executor, state->transfer.call_off());
}

}  // namespace ferry::migration
