#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/stream/wire.h"

namespace ferry::bridge {

// The receiving end of a resumable stream: knows which bytes came and which of them the consumer
// has taken, drops what comes twice, and says what to acknowledge. It holds no bytes. No I/O.
class StreamReceiver {
 public:
  struct Ack {
    uint64_t offset;
    bool eof_taken;
  };

  // `start` is the offset of the next byte wanted; not 0 when another receiver came before.
  explicit StreamReceiver(uint32_t generation, uint64_t start = 0, size_t window = kStreamWindow);

  // What this end says first on a new connection.
  StreamHello MakeHello() const;

  // OUT_OF_RANGE if the sender no longer has the byte that is wanted next, FAILED_PRECONDITION on
  // another generation.
  absl::Status OnPeerHello(const StreamHello& hello);

  void OnDisconnect() { connected_ = false; }

  // Returns what of `bytes` is new (a suffix, possibly empty). OUT_OF_RANGE on a gap and on bytes
  // after the end, RESOURCE_EXHAUSTED if the sender goes beyond its window.
  absl::StatusOr<std::string_view> OnData(uint64_t offset, std::string_view bytes);

  // The stream ends at `offset`; may come again after a reconnect.
  absl::Status OnEof(uint64_t offset);

  // The consumer has taken `count` more of the bytes that OnData() returned.
  void Taken(size_t count);
  // The consumer has taken the end as well. Call it when ended() and nothing is untaken.
  void EofTaken();

  // The acknowledgement to send, nullopt if there is nothing new to say. Everything taken since the
  // last call is gathered in one; on a new connection the current state is said once more.
  std::optional<Ack> NextAck();

  bool connected() const { return connected_; }
  bool ended() const { return ended_; }
  bool eof_taken() const { return eof_taken_; }
  uint32_t generation() const { return generation_; }
  uint64_t received() const { return received_; }  // all below came
  uint64_t taken() const { return taken_; }        // all below was taken

 private:
  const uint32_t generation_;
  const size_t window_;
  uint64_t received_;
  uint64_t taken_;
  bool connected_ = false;
  bool ended_ = false;
  bool eof_taken_ = false;
  bool ack_due_ = false;
};

}  // namespace ferry::bridge
