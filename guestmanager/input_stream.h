#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "guestmanager/process.h"
#include "guestmanager/stdio_stream.h"

namespace ferry::guest {

class InputObserver {
 public:
  virtual ~InputObserver() = default;
  virtual void OnTaken(uint64_t offset, bool end_taken) = 0;
  virtual void OnRewind(uint64_t offset) = 0;
  virtual void OnReaderGone() = 0;
};

// A process's stdin: the sending half. The attached client keeps what is not yet taken; here bytes
// only pass through, and after a lost link the client is asked for them again.
class InputStream : public StdioStream::Owner {
 public:
  // `restored`: the state is a former one, and the guest may be further.
  InputStream(std::shared_ptr<LinkGate> gate, InputObserver* observer, const StreamState& state,
              bool restored);
  ~InputStream() override { stream_->Close(); }

  absl::Status Listen(uint32_t port) { return stream_->Listen(port); }
  // Whether it is known how far the guest is.
  bool placed() const { return placed_ || end_taken_; }
  StreamPosition taken() const { return {generation_, taken_}; }
  bool ended() const { return end_taken_; }
  uint64_t sent() const { return sent_; }
  // Passed on to the guest and not taken by the process yet, in bytes.
  uint64_t in_flight() const { return sent_ > taken_ ? sent_ - taken_ : 0; }

  absl::Status Send(uint64_t offset, std::string_view data);
  absl::Status End(uint64_t offset);
  void Close() { stream_->Close(); }

  std::optional<bridge::StreamHello> OwnHello() override;
  absl::Status OnPeerHello(const bridge::StreamHello& hello) override;
  absl::Status OnFrame(const bridge::StreamFrame& frame) override;
  bool WantsData() const override { return true; }
  void OnPlainUp() override;
  void OnPlainData(std::string_view) override {}
  void OnPlainEnd() override {}
  void OnPlainWritten(size_t size) override;
  void OnPlainLost(const absl::Status& reason) override;

 private:
  InputObserver* observer_;
  uint32_t generation_;
  uint64_t taken_;
  bool end_taken_;
  uint64_t sent_;              // passed on (or given up on, until the next hello rewinds)
  bool rewinding_ = false;     // the client may not have heard of the rewind yet
  bool synchronised_ = false;  // the guest said where it stands on this connection
  bool placed_;                // it need not, or did; till then a client may know more than we do
  std::optional<uint64_t> end_;
  std::string before_plain_;  // a plain peer can't ask again: kept until it has dialled
  std::shared_ptr<StdioStream> stream_;
};

}  // namespace ferry::guest
