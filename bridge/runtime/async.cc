#include "bridge/runtime/async.h"

#include <boost/asio/error.hpp>
#include <boost/system/system_error.hpp>
#include <list>

#include "absl/strings/str_cat.h"

namespace ferry {
namespace {

// Asio unwinds a cancelled task by throwing operation_aborted out of its next co_await. That is an
// orderly end; anything else that escapes from a task is a broken invariant.
void EndTask(std::exception_ptr failure) {
  if (!failure) return;
  try {
    std::rethrow_exception(failure);
  } catch (const boost::system::system_error& error) {
    if (error.code() != asio::error::operation_aborted) throw;
  }
}

}  // namespace

void Spawn(Executor executor, Task<void> task) {
  asio::co_spawn(std::move(executor), std::move(task), EndTask);
}

Task<void> Delay(milliseconds duration) {
  asio::steady_timer timer(co_await asio::this_coro::executor, duration);
  boost::system::error_code ignored;
  co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

AsyncEvent::AsyncEvent(Executor executor)
    : timer_(std::move(executor), asio::steady_timer::time_point::max()) {}

void AsyncEvent::Set() {
  set_ = true;
  timer_.cancel();
}

Task<void> AsyncEvent::Wait() {
  if (set_) co_return;
  boost::system::error_code ignored;
  co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

Task<AsyncMutex::Guard> AsyncMutex::Lock() {
  if (!locked_) {
    locked_ = true;
    co_return Guard(this);
  }
  auto turn = std::make_shared<AsyncEvent>(executor_);
  waiters_.push_back(turn);
  // A cancelled waiter still takes its turn: Unlock() hands the mutex over by name, and the guard
  // that is returned gives it back at once when the caller unwinds.
  co_await asio::this_coro::reset_cancellation_state(asio::disable_cancellation());
  co_await turn->Wait();
  co_await asio::this_coro::reset_cancellation_state(asio::enable_terminal_cancellation());
  co_return Guard(this);
}

void AsyncMutex::Unlock() {
  if (waiters_.empty()) {
    locked_ = false;
    return;
  }
  std::shared_ptr<AsyncEvent> next = std::move(waiters_.front());
  waiters_.pop_front();
  next->Set();
}

Task<absl::Status> WithDeadline(milliseconds limit, const char* what, Task<absl::Status> task) {
  using asio::experimental::awaitable_operators::operator||;
  try {
    auto result = co_await (std::move(task) || Delay(limit));
    if (result.index() == 0) co_return std::get<0>(std::move(result));
  } catch (const asio::multiple_exceptions&) {
    // Both sides were cancelled from outside: unwind as a plain cancelled task does.
    throw boost::system::system_error(asio::error::operation_aborted);
  }
  co_return absl::DeadlineExceededError(
      absl::StrCat(what, " gave no answer within ", limit.count(), " ms"));
}

struct TaskScope::State {
  explicit State(Executor e) : executor(e), idle(e) { idle.Set(); }

  Executor executor;
  AsyncEvent idle;
  std::list<asio::cancellation_signal> signals;
  bool closed = false;
};

TaskScope::TaskScope(Executor executor) : state_(std::make_shared<State>(std::move(executor))) {}

TaskScope::~TaskScope() { Cancel(); }

void TaskScope::Spawn(Task<void> task) {
  if (state_->closed) return;
  state_->idle.Reset();
  auto signal = state_->signals.emplace(state_->signals.end());
  auto done = [state = state_, signal](std::exception_ptr failure) {
    state->signals.erase(signal);
    if (state->signals.empty()) state->idle.Set();
    EndTask(failure);
  };
  asio::co_spawn(state_->executor, std::move(task),
                 asio::bind_cancellation_slot(signal->slot(), std::move(done)));
}

void TaskScope::Cancel() {
  // Emitting may end a task at once and so change the list; its nodes stay valid until erased.
  for (auto it = state_->signals.begin(); it != state_->signals.end();) {
    auto current = it++;
    current->emit(asio::cancellation_type::terminal);
  }
}

Task<void> TaskScope::CancelAndJoin() {
  std::shared_ptr<State> state = state_;
  state->closed = true;
  Cancel();
  co_await state->idle.Wait();
}

}  // namespace ferry
