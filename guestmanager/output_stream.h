#pragma once

#include <cstdint>
#include <memory>

#include "guestmanager/process.h"
#include "guestmanager/stdio_stream.h"

namespace ferry::guest {

// Who takes a stream's output: the attached client, or the spool.
class OutputConsumer {
 public:
  virtual ~OutputConsumer() = default;
  virtual bool ConsumerReady(Stream stream) const = 0;
  virtual void OnData(Stream stream, StreamPosition position, std::string_view data) = 0;
  virtual void OnEnd(Stream stream, uint64_t offset) = 0;
  virtual void OnDropped(Stream stream, uint64_t from, uint64_t to) = 0;
  virtual void OnLost(Stream stream, const absl::Status& reason) = 0;
};

// One output stream of a process: the receiving half. Without a consumer nothing is asked for, and
// the guest keeps what the process writes.
class OutputStream : public StdioStream::Owner {
 public:
  OutputStream(std::shared_ptr<LinkGate> gate, Stream which, const StreamState& state);
  ~OutputStream() override { stream_->Close(); }

  absl::Status Listen(uint32_t port) { return stream_->Listen(port); }
  StreamPosition taken() const { return {generation_, taken_}; }
  bool ended() const { return end_taken_; }
  // The end is known here and nobody will tell it again; it lies at end_offset().
  bool over() const { return end_taken_ || plain_ended_; }
  uint64_t end_offset() const { return end_taken_ ? taken_ : next_; }

  // Given to the consumer and not acknowledged yet, in bytes.
  uint64_t in_flight() const { return next_ > taken_ ? next_ - taken_ : 0; }

  // From `offset` on everything goes to `consumer`; nullptr: to nobody.
  void SetConsumer(OutputConsumer* consumer, uint64_t offset);
  void Wake() { stream_->Wake(); }
  void Acknowledge(uint64_t offset, bool end_taken);
  // The process is gone and nobody will dial any more: what was not heard is not to be had.
  void ForceEnd();
  void Close() { stream_->Close(); }

  std::optional<bridge::StreamHello> OwnHello() override;
  absl::Status OnPeerHello(const bridge::StreamHello& hello) override;
  absl::Status OnFrame(const bridge::StreamFrame& frame) override;
  bool WantsData() const override;
  void OnPlainUp() override {}
  void OnPlainData(std::string_view data) override;
  void OnPlainEnd() override;
  void OnPlainWritten(size_t) override {}
  void OnPlainLost(const absl::Status& reason) override;

 private:
  void Deliver(std::string_view data);
  void DeliverEnd();

  Stream which_;
  uint32_t generation_;
  uint64_t taken_;
  bool end_taken_;
  uint64_t next_;          // the next byte for the consumer
  bool end_seen_ = false;  // the consumer was told that next_ is the end
  bool plain_ended_ = false;
  OutputConsumer* consumer_ = nullptr;
  std::shared_ptr<StdioStream> stream_;
};

}  // namespace ferry::guest
