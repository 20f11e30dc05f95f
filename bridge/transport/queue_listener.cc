#include "bridge/transport/queue_listener.h"

#include <utility>

namespace ferry::bridge {

bool AcceptQueue::Push(std::unique_ptr<Connection> connection) {
  if (closed_ || waiting_.size() >= kMaxBacklog) return false;
  waiting_.push_back(std::move(connection));
  changed_.Set();
  return true;
}

void AcceptQueue::Close() {
  closed_ = true;
  waiting_.clear();
  changed_.Set();
}

Task<absl::StatusOr<std::unique_ptr<Connection>>> AcceptQueue::Accept() {
  while (waiting_.empty()) {
    if (closed_) co_return absl::CancelledError("the listener was closed");
    changed_.Reset();
    co_await changed_.Wait();
  }
  std::unique_ptr<Connection> connection = std::move(waiting_.front());
  waiting_.pop_front();
  co_return connection;
}

Task<absl::StatusOr<std::unique_ptr<Connection>>> QueueListener::Accept() {
  std::shared_ptr<AcceptQueue> queue = queue_;
  co_return co_await queue->Accept();
}

void QueueListener::Close() {
  queue_->Close();
  if (auto on_close = std::exchange(on_close_, nullptr)) on_close();
}

}  // namespace ferry::bridge
