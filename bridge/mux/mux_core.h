#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bridge/mux/frame.h"

namespace ferry::bridge {

// What the peer may send on one connection beyond what its consumer has taken.
inline constexpr size_t kMuxWindow = 256 * 1024;
inline constexpr size_t kMaxMuxConnections = 1024;

// What one end holds at most for the consumers of all its connections together. Beyond this the
// connections that hold most are reset: their consumers are stuck, and the peer makes use of it.
inline constexpr size_t kMaxMuxBuffered = 32 * 1024 * 1024;

enum class MuxRole { kHost, kGuest };

// Something that happened to the link or to one connection.
struct MuxEvent {
  enum class Kind {
    kLinkUp,    // both ends are in the epoch
    kLinkDown,  // all connections are gone
    kIncoming,  // host: the guest dials `port`; answer with Accept or Close
    kAccepted,  // guest: the host accepted
    kReadable,  // Read() has something new to say
    kWritable,  // Write() takes bytes again
    kReset,     // the peer reset the connection, or refused it
  };
  Kind kind;
  uint32_t connection = 0;
  uint32_t port = 0;
};

// One end of the multiplexer, without I/O: received bytes and calls go in, bytes to send and events
// come out. The driver calls TakeEvents() and sends output() after every call that it makes.
//
// The host opens an epoch with a hello and the guest answers. Within an epoch every frame has the
// next sequence number of its direction; a gap, damage or a violation ends the epoch: the guest
// asks for a new one, the host starts it. Frames of other epochs are dropped.
class MuxCore {
 public:
  // `next_epoch` gives the host a new random number for each epoch. `newest` is the highest version
  // of the protocol that this end speaks; each speaks all below.
  MuxCore(MuxRole role, std::function<uint32_t()> next_epoch, uint16_t newest = kMuxVersion);

  // Host: resets all connections and offers a new epoch; for a new stream call LinkGone() first.
  void StartEpoch();

  // Guest: says that it is there.
  void RequestEpoch();

  // Takes received bytes.
  void Receive(std::string_view bytes);

  // The stream ended: all connections are gone, and so is what was to be sent.
  void LinkGone();

  // Repeats the hello, or the request for one, if it was sent and is not answered yet.
  void RetryHandshake();

  bool established() const { return phase_ == Phase::kUp; }
  uint32_t epoch() const { return epoch_; }
  // The highest version that both ends speak, once established.
  uint16_t version() const { return version_; }

  // Too much unsent output: take no more input until it has drained.
  bool WantsInput() const;

  std::string_view output() const { return std::string_view(output_).substr(output_head_); }
  void ConsumeOutput(size_t size);
  std::vector<MuxEvent> TakeEvents() { return std::exchange(events_, {}); }

  // Guest: dials `port` and returns the connection's number.
  absl::StatusOr<uint32_t> Connect(uint32_t port);

  // Host: accepts an incoming connection.
  void Accept(uint32_t connection);

  struct ReadResult {
    size_t size = 0;
    bool ended = false;  // the peer's writing side is closed and all was read
    bool reset = false;  // the connection is gone and all was read
  };
  ReadResult Read(uint32_t connection, std::span<char> buffer);

  // Takes as much of `data` as credit and output space allow. If that is not all, kWritable
  // follows. NOT_FOUND if the connection is gone, FAILED_PRECONDITION after CloseWrite().
  absl::StatusOr<size_t> Write(uint32_t connection, std::string_view data);

  absl::Status CloseWrite(uint32_t connection);

  // Forgets the connection; resets it at the peer unless both sides have ended it in order.
  void Close(uint32_t connection);

  size_t connection_count() const { return streams_.size(); }

  // Memory that received data takes.
  size_t buffered() const { return buffered_; }

 private:
  enum class Phase { kDown, kOffered, kUp };  // kOffered: the host waits for the guest's answer

  struct Stream {
    bool open = false;  // accepted
    bool reset = false;
    bool fin_sent = false;
    bool fin_received = false;
    bool wants_write = false;
    size_t send_credit = kMuxWindow;
    size_t receive_window = kMuxWindow;  // what the peer may still send
    size_t taken = 0;                    // consumed and not yet credited to the peer
    std::string received;
    size_t received_head = 0;
  };

  void OnFrame(const std::optional<MuxFrame>& frame);
  void OnHello(const MuxFrame& frame);
  void OnHelloAck(const MuxFrame& frame);
  void OnHelloRequest(const MuxFrame& frame);
  void OnConnect(const MuxFrame& frame);
  void OnStreamFrame(const MuxFrame& frame);
  void OnData(uint32_t connection, Stream& stream, std::string_view payload);
  void OnCredit(uint32_t connection, Stream& stream, std::string_view payload);
  void OnFin(uint32_t connection, Stream& stream);
  void OnReset(uint32_t connection, Stream& stream);

  // Lets go of what is held for a connection's consumer.
  void ReleaseBuffer(Stream& stream);
  void BoundBuffers();

  void GoUp();
  // Bytes were lost or the peer broke the rules: nothing of this epoch can be trusted any more.
  void LoseEpoch();
  void DropConnections();
  void ClearOutput();

  void SendHandshake(MuxFrameType type, uint32_t epoch, uint16_t version);
  void Send(MuxFrameType type, uint32_t connection, std::string_view payload);
  void SendNumber(MuxFrameType type, uint32_t connection, uint32_t number);
  void Emit(MuxEvent::Kind kind, uint32_t connection = 0, uint32_t port = 0);
  Stream* Find(uint32_t connection);

  const MuxRole role_;
  std::function<uint32_t()> next_epoch_;
  const uint16_t newest_;
  uint16_t version_ = 1;
  Phase phase_ = Phase::kDown;
  uint32_t epoch_ = 0;
  uint32_t lost_epoch_ = 0;  // guest: the epoch that it gave up and must not enter again
  uint32_t send_sequence_ = 0;
  uint32_t receive_sequence_ = 0;
  uint32_t next_connection_ = 1;
  std::map<uint32_t, Stream> streams_;
  size_t buffered_ = 0;
  MuxFrameDecoder decoder_;
  std::string output_;
  size_t output_head_ = 0;
  std::vector<MuxEvent> events_;
};

}  // namespace ferry::bridge
