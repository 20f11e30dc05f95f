#include "bridge/runtime/blocking_worker.h"

#include <boost/asio/post.hpp>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bridge/runtime/status_macros.h"

namespace ferry {

struct BlockingWorker::State {
  std::mutex mutex;
  std::condition_variable posted;  // or closed
  std::condition_variable over;
  std::deque<std::function<void()>> queue;
  bool closed = false;
  bool ended = false;
  bool works = false;
  bool listens = true;  // the executor's side is there
};

// Owned by the executor's side alone: the thread must not let go of an event.
struct BlockingWorker::Outcome {
  explicit Outcome(Executor executor) : done(std::move(executor)) {}
  AsyncEvent done;
  absl::Status status;
};

absl::StatusOr<std::unique_ptr<BlockingWorker>> BlockingWorker::Start(Executor executor) {
  try {
    return std::make_unique<BlockingWorker>(std::move(executor));
  } catch (const std::system_error& error) {  // that is how a std::thread says so
    return absl::ResourceExhaustedError(absl::StrCat("cannot start a thread: ", error.what()));
  }
}

BlockingWorker::BlockingWorker(Executor executor)
    : executor_(std::move(executor)),
      state_(std::make_shared<State>()),
      thread_([state = state_] { Serve(state); }) {}

BlockingWorker::~BlockingWorker() { Close(milliseconds(0)); }

void BlockingWorker::Serve(const std::shared_ptr<State>& state) {
  std::unique_lock lock(state->mutex);
  while (true) {
    state->posted.wait(lock, [&state] { return state->closed || !state->queue.empty(); });
    if (state->queue.empty()) break;
    std::function<void()> work = std::move(state->queue.front());
    state->queue.pop_front();
    state->works = true;
    lock.unlock();
    work();
    work = nullptr;
    lock.lock();
    state->works = false;
  }
  state->ended = true;
  state->over.notify_all();
}

void BlockingWorker::Post(std::function<void()> work) {
  const std::lock_guard lock(state_->mutex);
  if (state_->closed) return;
  state_->queue.push_back(std::move(work));
  state_->posted.notify_one();
}

Task<absl::Status> BlockingWorker::Run(milliseconds limit, const char* what,
                                       std::function<absl::Status()> work) {
  auto outcome = std::make_shared<Outcome>(executor_);
  Post([state = state_, executor = executor_, weak = std::weak_ptr<Outcome>(outcome),
        work = std::move(work)] {
    absl::Status status = work();
    const std::lock_guard lock(state->mutex);
    if (!state->listens) return;
    asio::post(executor, [weak, status = std::move(status)] {
      if (const std::shared_ptr<Outcome> waiting = weak.lock()) {
        waiting->status = status;
        waiting->done.Set();
      }
    });
  });
  CO_RETURN_IF_ERROR(co_await WithDeadline(limit, what, outcome->done.Wait()));
  co_return outcome->status;
}

void BlockingWorker::Close(milliseconds patience) {
  if (!thread_.joinable()) return;
  std::unique_lock lock(state_->mutex);
  state_->closed = true;
  state_->posted.notify_one();
  state_->over.wait_for(lock, patience, [this] { return state_->ended; });
  state_->listens = false;
  // One that is at no work ends at once.
  const bool ended = state_->ended || (!state_->works && state_->queue.empty());
  lock.unlock();
  if (ended) {
    thread_.join();
  } else {
    thread_.detach();
  }
}

}  // namespace ferry
