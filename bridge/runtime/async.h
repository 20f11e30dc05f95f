#pragma once

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/runtime/task.h"

// The few coroutine primitives that Ferry needs beyond Asio's own. None is thread-safe: use them on
// the executor's one thread only.
//
// Cancellation: a cancelled task is unwound by an exception (operation_aborted) out of its current
// or next co_await. It is the only exception in Ferry; do not catch it, let destructors clean up.
namespace ferry {

using std::chrono::milliseconds;

// Starts `task` on `executor` and lets it run on its own. An exception other than cancellation ends
// the process: inside Ferry errors are statuses, so it can only be a broken invariant.
void Spawn(Executor executor, Task<void> task);

// Suspends for `duration`.
Task<void> Delay(milliseconds duration);

// A latch that any number of tasks can wait for; Set() wakes all of them, Reset() arms it again.
// Destroying it unwinds those who still wait as if they were cancelled.
class AsyncEvent {
 public:
  explicit AsyncEvent(Executor executor);
  ~AsyncEvent();
  AsyncEvent(const AsyncEvent&) = delete;
  AsyncEvent& operator=(const AsyncEvent&) = delete;

  void Set();
  void Reset() { state_->set = false; }
  bool is_set() const { return state_->set; }

  // Returns once the event is set (at once if it is), also if it was reset in the meantime.
  Task<void> Wait();

 private:
  struct State {
    explicit State(Executor executor)
        : timer(std::move(executor), asio::steady_timer::time_point::max()) {}
    asio::steady_timer timer;
    bool set = false;
    uint64_t times_set = 0;
  };
  std::shared_ptr<State> state_;  // shared with the waiters, who may be resumed after us
};

// An unbounded first-in first-out queue for one or more readers. Producers that must be held back
// need their own credit; this queue never blocks them.
template <typename T>
class AsyncQueue {
 public:
  explicit AsyncQueue(Executor executor) : ready_(executor) {}

  void Push(T item) {
    if (closed_) return;
    items_.push_back(std::move(item));
    ready_.Set();
  }

  // No more items; readers get what is queued and then nullopt.
  void Close() {
    closed_ = true;
    ready_.Set();
  }

  size_t size() const { return items_.size(); }
  bool closed() const { return closed_; }

  // The next item, or nullopt when the queue is closed and empty.
  Task<std::optional<T>> Pop() {
    while (items_.empty()) {
      if (closed_) co_return std::nullopt;
      ready_.Reset();
      co_await ready_.Wait();
    }
    std::optional<T> item(std::move(items_.front()));
    items_.pop_front();
    co_return item;
  }

 private:
  AsyncEvent ready_;
  std::deque<T> items_;
  bool closed_ = false;
};

// Mutual exclusion between tasks across their suspension points; waiters get it in order. A waiter
// that is cancelled leaves the line.
class AsyncMutex {
 public:
  explicit AsyncMutex(Executor executor) : executor_(executor) {}

  // Holds the mutex until destroyed.
  class Guard {
   public:
    Guard() = default;
    explicit Guard(AsyncMutex* mutex) : mutex_(mutex) {}
    Guard(Guard&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
    Guard& operator=(Guard&& other) noexcept {
      std::swap(mutex_, other.mutex_);
      return *this;
    }
    ~Guard() {
      if (mutex_ != nullptr) mutex_->Unlock();
    }

   private:
    AsyncMutex* mutex_ = nullptr;
  };

  Task<Guard> Lock();
  bool locked() const { return locked_; }

 private:
  class Place;

  void Unlock();

  Executor executor_;
  bool locked_ = false;
  std::deque<AsyncEvent*> waiters_;  // each in the frame of its Lock()
};

// Runs `task`, at most for `limit`; then it is cancelled and DEADLINE_EXCEEDED says what was late.
Task<absl::Status> WithDeadline(milliseconds limit, const char* what, Task<absl::Status> task);
Task<absl::Status> WithDeadline(milliseconds limit, const char* what, Task<void> task);

template <typename T>
Task<absl::StatusOr<T>> WithDeadline(milliseconds limit, const char* what,
                                     Task<absl::StatusOr<T>> task) {
  std::optional<absl::StatusOr<T>> result;
  auto store = [](std::optional<absl::StatusOr<T>>* out,
                  Task<absl::StatusOr<T>> inner) -> Task<absl::Status> {
    out->emplace(co_await std::move(inner));
    co_return absl::OkStatus();
  };
  absl::Status status = co_await WithDeadline(limit, what, store(&result, std::move(task)));
  if (!status.ok()) co_return status;
  co_return *std::move(result);
}

// Groups tasks whose lifetime must end with their owner. The owner calls CancelAndJoin() before it
// lets go of anything that the tasks use; tasks then see their pending operation cancelled.
class TaskScope {
 public:
  explicit TaskScope(Executor executor);
  ~TaskScope();
  TaskScope(const TaskScope&) = delete;
  TaskScope& operator=(const TaskScope&) = delete;

  // Starts `task`. After CancelAndJoin() has begun nothing more is started.
  void Spawn(Task<void> task);

  // Cancels what runs, without waiting.
  void Cancel();

  // Cancels what runs and returns when all of it has ended, even if the caller is cancelled
  // meanwhile (it unwinds afterwards). Not to be called from a task inside.
  Task<void> CancelAndJoin();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace ferry
