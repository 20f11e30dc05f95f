#pragma once

#include <deque>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "bridge/runtime/async.h"
#include "bridge/transport/transport.h"

namespace ferry::bridge {

// Connections that arrived on a port and were not accepted yet: what a kernel calls the backlog.
class AcceptQueue {
 public:
  static constexpr size_t kMaxBacklog = 128;

  explicit AcceptQueue(Executor executor) : changed_(std::move(executor)) {}

  // False (and `connection` is closed) if the queue is closed or full.
  bool Push(std::unique_ptr<Connection> connection);

  // Drops what waits, for example because the link was reset.
  void Clear() { waiting_.clear(); }

  void Close();
  bool closed() const { return closed_; }

  Task<absl::StatusOr<std::unique_ptr<Connection>>> Accept();

 private:
  AsyncEvent changed_;
  std::deque<std::unique_ptr<Connection>> waiting_;
  bool closed_ = false;
};

// A Listener over such a queue; `on_close` runs once, and unregisters the port.
class QueueListener final : public Listener {
 public:
  QueueListener(std::shared_ptr<AcceptQueue> queue, std::function<void()> on_close)
      : queue_(std::move(queue)), on_close_(std::move(on_close)) {}
  ~QueueListener() override { Close(); }

  Task<absl::StatusOr<std::unique_ptr<Connection>>> Accept() override;
  void Close() override;

 private:
  std::shared_ptr<AcceptQueue> queue_;
  std::function<void()> on_close_;
};

}  // namespace ferry::bridge
