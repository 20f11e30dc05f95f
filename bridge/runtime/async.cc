#include "bridge/runtime/async.h"

#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
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
  } catch (const asio::multiple_exceptions& both) {
    // Parallel operations that were cancelled together.
    EndTask(both.first_exception());
  }
}

[[noreturn]] void Unwind() { throw boost::system::system_error(asio::error::operation_aborted); }

}  // namespace

void Spawn(Executor executor, Task<void> task) {
  asio::co_spawn(std::move(executor), std::move(task), EndTask);
}

Task<void> Delay(milliseconds duration) {
  asio::steady_timer timer(co_await asio::this_coro::executor, duration);
  co_await timer.async_wait(asio::use_awaitable);
}

AsyncEvent::AsyncEvent(Executor executor) : state_(std::make_shared<State>(std::move(executor))) {}

AsyncEvent::~AsyncEvent() { state_->timer.cancel(); }

void AsyncEvent::Set() {
  state_->set = true;
  ++state_->times_set;
  state_->timer.cancel();
}

Task<void> AsyncEvent::Wait() {
  std::shared_ptr<State> state = state_;
  if (state->set) co_return;
  const uint64_t seen = state->times_set;
  boost::system::error_code ignored;
  co_await state->timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  // Only Set() ends the wait; else the task was cancelled or the event destroyed.
  if (state->times_set == seen) Unwind();
}

// A waiter's place in the line. A task that unwinds while it waits leaves the line, and passes the
// mutex on if it was its turn already.
class AsyncMutex::Place {
 public:
  explicit Place(AsyncMutex* mutex) : mutex_(mutex), turn_(mutex->executor_) {
    mutex_->waiters_.push_back(&turn_);
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() {
    if (taken_) return;
    if (turn_.is_set()) {
      mutex_->Unlock();
    } else {
      std::erase(mutex_->waiters_, &turn_);
    }
  }

  Task<void> Wait() { return turn_.Wait(); }

  Guard Take() {
    taken_ = true;
    return Guard(mutex_);
  }

 private:
  AsyncMutex* mutex_;
  AsyncEvent turn_;
  bool taken_ = false;
};

Task<AsyncMutex::Guard> AsyncMutex::Lock() {
  if (!locked_) {
    locked_ = true;
    co_return Guard(this);
  }
  Place place(this);
  co_await place.Wait();
  co_return place.Take();
}

void AsyncMutex::Unlock() {
  if (waiters_.empty()) {
    locked_ = false;
    return;
  }
  AsyncEvent* next = waiters_.front();
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
    Unwind();
  }
  co_return absl::DeadlineExceededError(
      absl::StrCat(what, " gave no answer within ", limit.count(), " ms"));
}

Task<absl::Status> WithDeadline(milliseconds limit, const char* what, Task<void> task) {
  auto answer = [](Task<void> inner) -> Task<absl::Status> {
    co_await std::move(inner);
    co_return absl::OkStatus();
  };
  co_return co_await WithDeadline(limit, what, answer(std::move(task)));
}

struct TaskScope::State {
  explicit State(Executor e) : executor(e), idle(e) { idle.Set(); }

  Executor executor;
  AsyncEvent idle;
  struct Running {
    asio::cancellation_signal signal;
    bool cancelled = false;
    bool ended = false;
  };

  void Ended(std::shared_ptr<State> self, std::list<Running>::iterator task) {
    task->ended = true;
    if (--running == 0) idle.Set();
    if (!task->cancelled) {
      tasks.erase(task);
      return;
    }
    // Outside of the event loop Asio queues a cancellation, with a pointer into the signal: the
    // task may end before it gets there.
    asio::post(executor, [self = std::move(self), task] { self->tasks.erase(task); });
  }

  std::list<Running> tasks;
  size_t running = 0;
  bool closed = false;
};

TaskScope::TaskScope(Executor executor) : state_(std::make_shared<State>(std::move(executor))) {}

TaskScope::~TaskScope() { Cancel(); }

void TaskScope::Spawn(Task<void> task) {
  if (state_->closed) return;
  state_->idle.Reset();
  ++state_->running;
  auto running = state_->tasks.emplace(state_->tasks.end());
  auto done = [state = state_, running](std::exception_ptr failure) {
    state->Ended(state, running);
    EndTask(failure);
  };
  asio::co_spawn(state_->executor, std::move(task),
                 asio::bind_cancellation_slot(running->signal.slot(), std::move(done)));
}

void TaskScope::Cancel() {
  // Emitting may end a task at once; what was cancelled stays in the list until the loop goes on.
  for (State::Running& task : state_->tasks) {
    if (task.ended) continue;
    task.cancelled = true;
    task.signal.emit(asio::cancellation_type::terminal);
  }
}

Task<void> TaskScope::CancelAndJoin() {
  std::shared_ptr<State> state = state_;
  state->closed = true;
  Cancel();

  // Note a cancellation of the caller, but act on it only when nothing runs any more.
  const bool throws = co_await asio::this_coro::throw_if_cancelled();
  co_await asio::this_coro::throw_if_cancelled(false);
  co_await asio::this_coro::reset_cancellation_state(asio::enable_terminal_cancellation(),
                                                     asio::disable_cancellation());
  co_await state->idle.Wait();
  const auto cancelled = (co_await asio::this_coro::cancellation_state).cancelled();
  co_await asio::this_coro::reset_cancellation_state(asio::enable_terminal_cancellation());
  co_await asio::this_coro::throw_if_cancelled(throws);
  if (cancelled != asio::cancellation_type::none) Unwind();
}

}  // namespace ferry
