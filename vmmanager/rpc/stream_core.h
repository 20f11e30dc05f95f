#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "bridge/runtime/async.h"

// What server and client streams have in common: a bounded read-ahead, a queue of writes, and the
// hand-over between gRPC's threads and the io thread.
namespace ferry::rpc {

// Queued bytes at which a writer should wait, and up to which a reader is read ahead.
inline constexpr size_t kStreamHighWater = 1 << 20;

// Stands for the direction that a one-way stream does not have.
struct NoMessage {
  size_t ByteSizeLong() const { return 0; }
};

// Coroutines use the public half, on the io thread only. gRPC's reactions use the protected half,
// on any thread. Derived classes connect it to a reactor; their hooks are called with the mutex
// held, which is safe because gRPC never runs a reaction from inside a Start call.
template <typename In, typename Out>
class StreamCore {
 public:
  explicit StreamCore(const Executor& executor)
      : executor_(executor), changed_(executor), work_(asio::make_work_guard(executor)) {}
  virtual ~StreamCore() = default;
  StreamCore(const StreamCore&) = delete;
  StreamCore& operator=(const StreamCore&) = delete;

  // Has a message that waits take up the one that is queued behind it: false if it does not. Each
  // message costs gRPC a change of threads or two, whatever its size.
  using Merge = bool (*)(Out* waiting, Out* next);
  void set_merge(Merge merge) { merge_ = merge; }

  // Queues a message. False if it cannot arrive any more: the peer is gone or the stream closed.
  bool Write(Out message) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (broken_ || closing_) return false;
    if (MergedLocked(&message)) return true;
    out_bytes_ += message.ByteSizeLong();
    out_.push_back(std::move(message));
    PumpWritesLocked();
    return true;
  }

  // Whether the queue of writes is below its high-water mark.
  bool writable() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return out_bytes_ < kStreamHighWater;
  }

  // Whether the peer is gone (a reader learns it from Read()).
  bool gone() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return broken_;
  }

  // Returns when more may be written, true; or false when the peer is gone.
  Task<bool> WaitWritable() {
    while (!gone()) {
      if (writable()) co_return true;
      changed_.Reset();
      co_await changed_.Wait();
    }
    co_return false;
  }

  // Returns when every queued message has been handed to the transport, true; or false when the
  // peer is gone.
  Task<bool> WaitFlushed() {
    while (!gone()) {
      if (Flushed()) co_return true;
      changed_.Reset();
      co_await changed_.Wait();
    }
    co_return false;
  }

  // Returns when the peer is gone.
  Task<void> WaitGone() {
    while (!gone()) {
      changed_.Reset();
      co_await changed_.Wait();
    }
  }

  // The next message, or nullopt when the peer has ended its direction or is gone.
  Task<std::optional<In>> Read() {
    while (true) {
      bool over = false;
      std::optional<In> message = TakeMessage(&over);
      if (message || over) co_return message;
      changed_.Reset();
      co_await changed_.Wait();
    }
  }

 protected:
  // Begin one read or write, or end this side's direction (server: the call) after all writes.
  virtual void StartReadLocked(In* message) = 0;
  virtual void StartWriteLocked(const Out* message) = 0;
  virtual void CloseLocked() = 0;

  void ReadDone(bool ok) {
    std::lock_guard<std::mutex> lock(mutex_);
    reading_ = false;
    if (ok) {
      in_bytes_ += incoming_.ByteSizeLong();
      in_.push_back(std::move(incoming_));
      incoming_ = In();
      PumpReadsLocked();
    } else {
      read_over_ = true;
    }
    NotifyLocked();
  }

  void WriteDone(bool ok) {
    std::lock_guard<std::mutex> lock(mutex_);
    writing_ = false;
    out_bytes_ -= out_.front().ByteSizeLong();
    out_.pop_front();
    if (!ok) broken_ = true;
    PumpWritesLocked();
    NotifyLocked();
  }

  void Break() {
    std::lock_guard<std::mutex> lock(mutex_);
    broken_ = true;
    NotifyLocked();
  }

  void Close() {
    std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
    PumpWritesLocked();
  }

  // On the io thread, after the last reaction: nothing more will come.
  void Release() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      broken_ = true;
      read_over_ = true;
      stopped_ = true;
    }
    changed_.Set();
    work_.reset();
  }

  virtual std::shared_ptr<void> Self() = 0;

  const Executor executor_;
  AsyncEvent changed_;  // io thread only; set after any change
  mutable std::mutex mutex_;
  bool stopped_ = false;  // no Start call is allowed any more

 private:
  bool Flushed() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return out_.empty();
  }

  std::optional<In> TakeMessage(bool* over) {
    std::lock_guard<std::mutex> lock(mutex_);
    std::optional<In> message;
    if (!in_.empty()) {
      message = std::move(in_.front());
      in_.pop_front();
      in_bytes_ -= message->ByteSizeLong();
    } else {
      *over = read_over_;
    }
    reads_wanted_ = true;
    PumpReadsLocked();
    *over = !message && read_over_;
    return message;
  }

  // Nothing is read before the first Read(), so that a handler may look at the call first.
  void PumpReadsLocked() {
    if (reading_ || read_over_ || !reads_wanted_ || in_bytes_ >= kStreamHighWater) return;
    if (stopped_) {
      read_over_ = true;
      return;
    }
    reading_ = true;
    StartReadLocked(&incoming_);
  }

  bool MergedLocked(Out* message) {
    const bool one_waits = out_.size() > (writing_ ? 1 : 0);
    if (merge_ == nullptr || !one_waits) return false;
    Out& waiting = out_.back();
    const size_t before = waiting.ByteSizeLong();
    if (!merge_(&waiting, message)) return false;
    out_bytes_ += waiting.ByteSizeLong() - before;
    return true;
  }

  void PumpWritesLocked() {
    if (writing_) return;
    if (broken_) {
      out_.clear();
      out_bytes_ = 0;
    }
    if (!out_.empty()) {
      writing_ = true;
      StartWriteLocked(&out_.front());
    } else if (closing_ && !closed_) {
      closed_ = true;
      CloseLocked();
    }
  }

  void NotifyLocked() {
    if (notifying_) return;
    notifying_ = true;
    asio::post(executor_, [this, self = Self()] {
      {
        std::lock_guard<std::mutex> lock(mutex_);
        notifying_ = false;
      }
      changed_.Set();
    });
  }

  asio::executor_work_guard<Executor> work_;  // the io_context runs while gRPC may still call
  std::deque<In> in_;
  In incoming_;
  size_t in_bytes_ = 0;
  bool reads_wanted_ = false;
  bool reading_ = false;
  bool read_over_ = false;
  Merge merge_ = nullptr;
  std::deque<Out> out_;  // its front is being written while writing_
  size_t out_bytes_ = 0;
  bool writing_ = false;
  bool broken_ = false;
  bool closing_ = false;
  bool closed_ = false;
  bool notifying_ = false;
};

}  // namespace ferry::rpc
