#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "bridge/stream/wire.h"

namespace ferry::bridge {

// A frame for the wire: the header, then the payload. `hold` keeps the payload alive while it is
// being written, because an acknowledgement may arrive before the write returns.
struct OutgoingFrame {
  std::string header;
  std::string_view payload;
  std::shared_ptr<const std::string> hold;
};

// The sending end of a resumable stream: keeps every byte until the receiver has taken it, and
// starts again at the receiver's offset on each new connection. No I/O.
class StreamSender {
 public:
  // `start` is the offset of the first byte that will be appended; not 0 when another sender of the
  // same stream came before (a host that took over a guest).
  explicit StreamSender(uint32_t generation, size_t window = kStreamWindow, uint64_t start = 0);

  // How much Append() takes now. 0 while the receiver has to acknowledge first, and after Finish().
  size_t WritableSpace() const;

  // RESOURCE_EXHAUSTED beyond WritableSpace(), FAILED_PRECONDITION after Finish().
  absl::Status Append(std::string_view bytes);

  // No more bytes will come. Idempotent.
  void Finish();

  // Moves an idle sender's end forward to `offset`: the receiver has those bytes already, from an
  // earlier sender. Used by a host that takes over a guest, before OnPeerHello(). Lower offsets and
  // those within what is kept change nothing.
  void SkipTo(uint64_t offset);

  // What this end says first on a new connection.
  StreamHello MakeHello() const;

  // The receiver's hello: from here on NextFrame() gives frames from the wanted offset.
  // OUT_OF_RANGE if it is not kept (any more, or yet), FAILED_PRECONDITION on another generation.
  absl::Status OnPeerHello(const StreamHello& hello);

  // The connection is gone; nothing is given out until the next OnPeerHello().
  void OnDisconnect();

  // OUT_OF_RANGE if bytes are acknowledged that were never sent; old acknowledgements are ignored.
  absl::Status OnAck(uint64_t offset, bool eof_taken);

  // The next frame to write, nullopt if there is none now.
  std::optional<OutgoingFrame> NextFrame(size_t max_payload = kMaxStreamPayload);

  bool connected() const { return connected_; }
  bool finished() const { return finished_; }
  // The end and everything before it was taken: the stream is over.
  bool fully_taken() const { return eof_taken_; }
  uint32_t generation() const { return generation_; }
  uint64_t base() const { return base_; }  // all below was taken
  uint64_t end() const { return end_; }    // all below was appended

 private:
  struct Chunk {
    uint64_t offset;
    std::shared_ptr<std::string> bytes;
  };

  const uint32_t generation_;
  const size_t window_;
  std::deque<Chunk> chunks_;
  uint64_t base_;
  uint64_t cursor_;  // next byte for the current connection
  uint64_t sent_;    // highest byte ever given out
  uint64_t end_;
  bool connected_ = false;
  bool finished_ = false;
  bool eof_sent_ = false;  // on the current connection
  bool eof_taken_ = false;
};

}  // namespace ferry::bridge
